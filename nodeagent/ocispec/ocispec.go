// SPDX-License-Identifier: Apache-2.0

// Package ocispec turns one container of a pod into an OCI runtime specification. It is pure: whatever must be looked up (users, environment,
// volumes, the machine's devices) comes in with the input.
package ocispec

import (
	"fmt"
	"slices"
	"strings"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// User is what a container's process runs as.
type User struct {
	UID, GID       uint32
	AdditionalGIDs []uint32
}

// Namespaces are paths of the pod's pinned namespaces; an empty path means the host's own.
type Namespaces struct{ Network, IPC, UTS string }

// Input is everything that the specification depends on.
type Input struct {
	Pod       *v1.Pod
	Container *v1.Container
	Image     imagespec.ImageConfig
	User      User
	// Env is complete and expanded: the image's variables first, then the container's.
	Env []string
	// Command and Args are expanded.
	Command, Args []string
	Namespaces    Namespaces
	// Mounts are volumes and the files that the agent provides.
	Mounts      []specs.Mount
	CgroupsPath string
	OOMScoreAdj int
	// Devices are the machine's, for privileged containers.
	Devices  []specs.LinuxDevice
	Terminal bool
	// Seccomp is the profile RuntimeDefault, computed for the finished specification.
	Seccomp func(*specs.Spec) *specs.LinuxSeccomp
}

// Build returns the specification. Its errors are the user's to mend.
func Build(in Input) (*specs.Spec, error) {
	args, err := processArgs(in)
	if err != nil {
		return nil, err
	}
	sc := in.Container.SecurityContext
	if sc == nil {
		sc = &v1.SecurityContext{}
	}
	if err := checkNonRoot(in, sc); err != nil {
		return nil, err
	}
	if err := checkSeccomp(in.Pod, sc); err != nil {
		return nil, err
	}
	privileged := sc.Privileged != nil && *sc.Privileged
	caps := capabilities(sc, privileged)
	s := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs", Readonly: sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem},
		Process: &specs.Process{
			Args: args, Env: in.Env, Cwd: workingDir(in), Terminal: in.Terminal,
			User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.AdditionalGIDs},
			Capabilities:    caps,
			NoNewPrivileges: noNewPrivileges(sc, privileged),
			OOMScoreAdj:     &in.OOMScoreAdj,
		},
		Mounts: mounts(in, privileged),
		Linux: &specs.Linux{
			CgroupsPath: in.CgroupsPath,
			Namespaces:  namespaces(in),
			Resources:   Resources(in.Container.Resources),
			Sysctl:      sysctls(in.Pod),
		},
	}
	if in.User.UID != 0 {
		// Capabilities of a user who is not root take effect only when the process gains them (or they are ambient).
		caps.Effective, caps.Permitted = nil, nil
	}
	protect(s, in, sc, privileged)
	return s, nil
}

// processArgs applies the rule of the API: command replaces the entry point and drops the image's arguments, args replace those.
func processArgs(in Input) ([]string, error) {
	args := slices.Clone(in.Command)
	if len(args) == 0 {
		args = slices.Clone(in.Image.Entrypoint)
		if len(in.Args) == 0 {
			args = append(args, in.Image.Cmd...)
		}
	}
	args = append(args, in.Args...)
	if len(args) == 0 {
		return nil, fmt.Errorf("no command specified")
	}
	return args, nil
}

func workingDir(in Input) string {
	switch {
	case in.Container.WorkingDir != "":
		return in.Container.WorkingDir
	case in.Image.WorkingDir != "":
		return in.Image.WorkingDir
	default:
		return "/"
	}
}

func checkNonRoot(in Input, sc *v1.SecurityContext) error {
	nonRoot := sc.RunAsNonRoot
	if nonRoot == nil && in.Pod.Spec.SecurityContext != nil {
		nonRoot = in.Pod.Spec.SecurityContext.RunAsNonRoot
	}
	if nonRoot != nil && *nonRoot && in.User.UID == 0 {
		return fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)",
			in.Pod.Name+"_"+in.Pod.Namespace+"("+string(in.Pod.UID)+")", in.Container.Name)
	}
	return nil
}

func noNewPrivileges(sc *v1.SecurityContext, privileged bool) bool {
	return sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation && !privileged
}

func namespaces(in Input) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if !in.Pod.Spec.HostPID {
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	for _, ns := range []specs.LinuxNamespace{
		{Type: specs.NetworkNamespace, Path: in.Namespaces.Network},
		{Type: specs.IPCNamespace, Path: in.Namespaces.IPC},
		{Type: specs.UTSNamespace, Path: in.Namespaces.UTS},
	} {
		if ns.Path != "" {
			out = append(out, ns)
		}
	}
	return out
}

func sysctls(pod *v1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil || len(pod.Spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	out := make(map[string]string)
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		out[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
	}
	return out
}

// protect restricts what an unprivileged container sees of the machine, and opens it all to a privileged one.
func protect(s *specs.Spec, in Input, sc *v1.SecurityContext, privileged bool) {
	if privileged {
		s.Linux.Devices = in.Devices
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return
	}
	s.Linux.Resources.Devices = defaultDevices()
	if sc.ProcMount == nil || *sc.ProcMount == v1.DefaultProcMount {
		s.Linux.MaskedPaths = []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
		s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	if in.Seccomp != nil && filtered(in.Pod, sc) {
		s.Linux.Seccomp = in.Seccomp(s)
	}
}

// filtered says that the pod asks for a system call filter. Without a word about it there is none, which is what Kubernetes promises
// to existing manifests; it also saves the runtime some 15 ms of building the filter at each start.
func filtered(pod *v1.Pod, sc *v1.SecurityContext) bool {
	profile := sc.SeccompProfile
	if profile == nil && pod.Spec.SecurityContext != nil {
		profile = pod.Spec.SecurityContext.SeccompProfile
	}
	return profile != nil && profile.Type == v1.SeccompProfileTypeRuntimeDefault
}

// checkSeccomp refuses profiles that this node cannot apply, rather than running without them.
func checkSeccomp(pod *v1.Pod, sc *v1.SecurityContext) error {
	profile := sc.SeccompProfile
	if profile == nil && pod.Spec.SecurityContext != nil {
		profile = pod.Spec.SecurityContext.SeccompProfile
	}
	if profile != nil && profile.Type == v1.SeccompProfileTypeLocalhost {
		return fmt.Errorf("seccomp profiles of type Localhost are not supported by this node, use RuntimeDefault")
	}
	return nil
}

func defaultDevices() []specs.LinuxDeviceCgroup {
	dev := func(major, minor int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"}
	}
	pts := int64(136)
	return []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		dev(1, 3), dev(1, 5), dev(1, 7), dev(1, 8), dev(1, 9), // null, zero, full, random, urandom
		dev(5, 0), dev(5, 1), dev(5, 2), // tty, console, ptmx
		{Allow: true, Type: "c", Major: &pts, Access: "rwm"},
	}
}
