// SPDX-License-Identifier: Apache-2.0

// Package runtime is the small set of container operations that the node agent needs, and containerd behind it.
//
// A container here is one attempt at one container of a pod. What the agent must know after a restart travels as labels on the
// container record, so a new agent finds every container that an old one made.
package runtime

import (
	"context"
	"errors"
	"io"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Errors of the closed vocabulary. Callers use errors.Is.
var (
	// ErrNotFound says that the container, its process or its image is not there.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable says that the container runtime does not answer.
	ErrUnavailable = errors.New("container runtime does not answer")
	// ErrCannotRun says that the container's command could not be made a process: it does not exist, may not be executed and so on.
	ErrCannotRun = errors.New("container cannot run")
)

// Identity says which attempt at which container of which pod a record is.
type Identity struct {
	PodUID, PodNamespace, PodName string
	Container                     string
	Attempt                       int
	// SpecHash identifies the container definition that the attempt was made from.
	SpecHash string
}

// Labels on container records.
const (
	labelPodUID       = "skep.dev/pod-uid"
	labelPodNamespace = "skep.dev/pod-namespace"
	labelPodName      = "skep.dev/pod-name"
	labelContainer    = "skep.dev/container"
	labelAttempt      = "skep.dev/attempt"
	labelSpecHash     = "skep.dev/spec-hash"
	labelImageID      = "skep.dev/image-id"
	labelImageName    = "skep.dev/image-name"
	labelStopSignal   = "skep.dev/stop-signal"
	labelNode         = "skep.dev/node"
)

// Spec is everything needed to create one container.
type Spec struct {
	ID string
	Identity
	// ImageName and ImageID are what the pod's status reports; ChainID names the unpacked root filesystem.
	ImageName, ImageID, ChainID string
	StopSignal                  string
	OCI                         *specs.Spec
	// Await, if set, is called when record and root filesystem are made, and returns when what the specification names by path
	// is there. The process is created after it.
	Await func(context.Context) error
	// Stdin, Stdout and Stderr are paths of named pipes; empty means /dev/null. With Terminal there is no Stderr.
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// State of a container's first process.
type State int

// A container is Created until Start, Running until its process ends, then Exited. Missing means that the record exists
// and nothing is known of a process: it never started, or the machine went down.
const (
	Missing State = iota
	Created
	Running
	Exited
)

// Container is what the runtime knows about a container.
type Container struct {
	ID string
	Identity
	ImageName, ImageID string
	StopSignal         string
	State              State
	PID                uint32
	ExitCode           int
	ExitedAt           time.Time
	CreatedAt          time.Time
	CgroupsPath        string
}

// Exit says how a process ended.
type Exit struct {
	Code int
	At   time.Time
}

// Exec asks for one more process in a running container.
type Exec struct {
	Command        []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool
	// Resize carries terminal sizes until it is closed; nil without a terminal.
	Resize <-chan TerminalSize
}

// TerminalSize is in character cells.
type TerminalSize struct{ Width, Height uint16 }

// Runtime runs containers. All methods are safe for concurrent use; absence is not an error for Kill and Delete.
type Runtime interface {
	// Version asks the runtime whether it is alive.
	Version(ctx context.Context) (string, error)
	// List returns every container of this agent.
	List(ctx context.Context) ([]Container, error)
	// Create prepares root filesystem, namespaces and cgroup; the container's process waits for Start.
	Create(ctx context.Context, spec Spec) error
	// Start lets the process run and returns its pid.
	Start(ctx context.Context, id string) (uint32, error)
	// Wait blocks until the container's process has ended. It works for a container that has ended already.
	Wait(ctx context.Context, id string) (Exit, error)
	// Kill sends a signal to the process; with all set, to every process of the container.
	Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error
	// Delete kills what still runs and removes process, root filesystem and record.
	Delete(ctx context.Context, id string) error
	// Exec runs a command and returns its exit code once its output has been copied.
	Exec(ctx context.Context, id string, exec Exec) (int, error)
	// Resize sets the terminal size of the container's own process.
	Resize(ctx context.Context, id string, size TerminalSize) error
	// CloseStdin tells the container's process that no more input comes.
	CloseStdin(ctx context.Context, id string) error
}

func (s Spec) labels(node string) map[string]string {
	return map[string]string{
		labelPodUID:       s.PodUID,
		labelPodNamespace: s.PodNamespace,
		labelPodName:      s.PodName,
		labelContainer:    s.Container,
		labelAttempt:      strconv.Itoa(s.Attempt),
		labelSpecHash:     s.SpecHash,
		labelImageID:      s.ImageID,
		labelImageName:    s.ImageName,
		labelStopSignal:   s.StopSignal,
		labelNode:         node,
	}
}

func fromLabels(id string, l map[string]string) (Container, bool) {
	attempt, err := strconv.Atoi(l[labelAttempt])
	if err != nil || l[labelPodUID] == "" || l[labelContainer] == "" {
		return Container{}, false
	}
	return Container{
		ID: id,
		Identity: Identity{
			PodUID: l[labelPodUID], PodNamespace: l[labelPodNamespace], PodName: l[labelPodName],
			Container: l[labelContainer], Attempt: attempt, SpecHash: l[labelSpecHash],
		},
		ImageID: l[labelImageID], ImageName: l[labelImageName], StopSignal: l[labelStopSignal],
	}, true
}
