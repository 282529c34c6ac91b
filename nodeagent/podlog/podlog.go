// SPDX-License-Identifier: Apache-2.0

// Package podlog carries the output of containers into log files in the CRI format.
//
// One logger process per node reads the pipes of all containers. It is not the agent: it outlives the agent, so killing the agent neither
// blocks a container nor loses a line. The shims hold both ends of every pipe, so the logger may be replaced as well: what is
// written meanwhile waits in the pipe (64 KB, then the writer blocks until the next logger comes, which the agent starts at once).
// A process per container, as containerd's own binary:// scheme has it, would cost each start an exec and each container its memory.
//
// The logger's whole state is on disk: one directory per container with its pipes and a file saying where the lines go.
package podlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"skep.dev/skep/nodeagent/checkpoint"
)

// Stream is the log of one container.
type Stream struct {
	// ID is the container's.
	ID string
	// Path of the file that lines are appended to.
	Path string
	// Terminal containers have one stream, reported as stdout.
	Terminal bool
	// Stdin keeps a pipe for input.
	Stdin bool
	// MaxBytes is the size at which the file is rotated; MaxFiles counts the current one.
	MaxBytes int64
	MaxFiles int
}

// Defaults of rotation, those that Kubernetes documents for containerLogMaxSize and containerLogMaxFiles.
const (
	DefaultMaxBytes = 10 << 20
	DefaultMaxFiles = 5
)

const streamFile = "stream.json"

// Pipes are the named pipes of one container; an empty path means none.
type Pipes struct{ Stdin, Stdout, Stderr string }

// Path returns the log file of attempt n of a container below root.
func Path(root, namespace, pod, uid, container string, attempt int) string {
	return filepath.Join(root, PodDir(namespace, pod, uid), container, strconv.Itoa(attempt)+".log")
}

// PodDir is the name of a pod's log directory, as log collectors expect it below /var/log/pods.
func PodDir(namespace, pod, uid string) string { return namespace + "_" + pod + "_" + uid }

// Prepare makes the pipes of a container in dir (one directory per logger, shared by all containers) and records its stream.
func Prepare(dir string, s Stream) (Pipes, error) {
	own := filepath.Join(dir, s.ID)
	if err := os.MkdirAll(own, 0o700); err != nil {
		return Pipes{}, fmt.Errorf("make log directory of container %s: %w", s.ID, err)
	}
	p := pipesOf(own, s)
	for _, path := range []string{p.Stdin, p.Stdout, p.Stderr} {
		if path == "" {
			continue
		}
		if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return Pipes{}, fmt.Errorf("make pipe %s: %w", path, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o755); err != nil {
		return Pipes{}, fmt.Errorf("make log directory: %w", err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return Pipes{}, err
	}
	// It only has to outlive processes, not the machine: pipes are gone after a reboot anyway.
	if err := checkpoint.WriteVolatile(filepath.Join(own, streamFile), data); err != nil {
		return Pipes{}, err
	}
	return p, nil
}

func pipesOf(own string, s Stream) Pipes {
	p := Pipes{Stdout: filepath.Join(own, "stdout")}
	if !s.Terminal {
		p.Stderr = filepath.Join(own, "stderr")
	}
	if s.Stdin {
		p.Stdin = filepath.Join(own, "stdin")
	}
	return p
}

// StdinPath is the pipe that feeds a container's standard input, when it has one.
func StdinPath(dir, id string) string { return filepath.Join(dir, id, "stdin") }

func loadStream(dir, id string) (Stream, error) {
	data, err := os.ReadFile(filepath.Join(dir, id, streamFile))
	if err != nil {
		return Stream{}, err
	}
	var s Stream
	if err := json.Unmarshal(data, &s); err != nil {
		return Stream{}, fmt.Errorf("read log stream of container %s: %w", id, err)
	}
	return s, nil
}

// release removes the pipes of a container. Opening them once more wakes a reader that still waits for a writer.
func release(dir string, s Stream) {
	own := filepath.Join(dir, s.ID)
	p := pipesOf(own, s)
	for _, path := range []string{p.Stdout, p.Stderr} {
		if path == "" {
			continue
		}
		if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(fd)
		}
	}
	_ = os.RemoveAll(own)
}
