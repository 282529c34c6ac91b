// SPDX-License-Identifier: Apache-2.0

package ocispec

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// defaultCapabilities are those that containers have always had unless asked otherwise.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// allCapabilities in the order of their numbers in linux/capability.h, up to those that 5.10 knows. A machine whose own bounding set
// lacks some gives what it has: see Restrict.
var allCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
	"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

func capabilities(sc *v1.SecurityContext, privileged bool) *specs.LinuxCapabilities {
	set := slices.Clone(defaultCapabilities)
	switch {
	case privileged:
		set = slices.Clone(allCapabilities)
	case sc.Capabilities != nil:
		for _, c := range sc.Capabilities.Drop {
			if strings.EqualFold(string(c), "ALL") {
				set = nil
			}
			set = slices.DeleteFunc(set, func(have string) bool { return have == capName(c) })
		}
		for _, c := range sc.Capabilities.Add {
			if strings.EqualFold(string(c), "ALL") {
				set = slices.Clone(allCapabilities)
				for _, drop := range sc.Capabilities.Drop {
					set = slices.DeleteFunc(set, func(have string) bool { return have == capName(drop) })
				}
				break
			}
			if !slices.Contains(set, capName(c)) {
				set = append(set, capName(c))
			}
		}
	}
	return &specs.LinuxCapabilities{Bounding: set, Effective: slices.Clone(set), Permitted: slices.Clone(set)}
}

func capName(c v1.Capability) string {
	name := strings.ToUpper(string(c))
	if !strings.HasPrefix(name, "CAP_") {
		name = "CAP_" + name
	}
	return name
}

// Restrict leaves out of a specification what the agent's own process is not allowed, by the bounding set mask of
// /proc/self/status: nobody can hand on a capability that he lacks, and asking for it would fail the container.
func Restrict(s *specs.Spec, bounding uint64) {
	allowed := func(set []string) []string {
		return slices.DeleteFunc(set, func(name string) bool {
			bit := slices.Index(allCapabilities, name)
			return bit < 0 || bounding&(1<<bit) == 0
		})
	}
	c := s.Process.Capabilities
	c.Bounding, c.Effective, c.Permitted = allowed(c.Bounding), allowed(c.Effective), allowed(c.Permitted)
}

func mounts(in Input, privileged bool) []specs.Mount {
	sysfs := []string{"nosuid", "noexec", "nodev", "ro"}
	if privileged {
		sysfs[3] = "rw"
	}
	system := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sysfs},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", sysfs[3]}},
	}
	system = slices.DeleteFunc(system, func(m specs.Mount) bool {
		return slices.ContainsFunc(in.Mounts, func(own specs.Mount) bool { return own.Destination == m.Destination })
	})
	own := slices.Clone(in.Mounts)
	// A mount point below another one must come after it.
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return strings.Count(strings.TrimSuffix(a.Destination, "/"), "/") - strings.Count(strings.TrimSuffix(b.Destination, "/"), "/")
	})
	return append(system, own...)
}

const (
	cpuPeriod  = 100_000 // microseconds, the kernel's default
	minQuota   = 1_000   // the kernel refuses less
	sharesUnit = 1024    // shares of one whole CPU
	minShares  = 2
)

// Shares are the CPU shares for a request in thousandths of a CPU.
func Shares(milliCPU int64) uint64 {
	return uint64(max(milliCPU*sharesUnit/1000, minShares))
}

// Quota is the CPU time in microseconds per period for a limit in thousandths of a CPU.
func Quota(milliCPU int64) (quota int64, period uint64) {
	return max(milliCPU*cpuPeriod/1000, minQuota), cpuPeriod
}

// Resources are the cgroup settings for a container's requests and limits. A limit without a request counts as the request, too.
func Resources(r v1.ResourceRequirements) *specs.LinuxResources {
	cpu := &specs.LinuxCPU{}
	request, ok := r.Requests[v1.ResourceCPU]
	if !ok {
		request = r.Limits[v1.ResourceCPU]
	}
	shares := Shares(request.MilliValue())
	cpu.Shares = &shares
	if limit, ok := r.Limits[v1.ResourceCPU]; ok && !limit.IsZero() {
		quota, period := Quota(limit.MilliValue())
		cpu.Quota, cpu.Period = &quota, &period
	}
	out := &specs.LinuxResources{CPU: cpu}
	if limit, ok := r.Limits[v1.ResourceMemory]; ok && !limit.IsZero() {
		bytes := limit.Value()
		// Swap is part of the limit on cgroup v1: equal values mean no swap.
		out.Memory = &specs.LinuxMemory{Limit: &bytes, Swap: &bytes}
	}
	return out
}

// OOMScoreAdj ranks a container for the kernel's out-of-memory killer: those that got what they asked for go last, those without requests first.
// memory is the machine's, in bytes; floor is the lowest value that this process may set.
func OOMScoreAdj(qos v1.PodQOSClass, request, memory int64, floor int) int {
	score := 1000
	switch {
	case qos == v1.PodQOSGuaranteed:
		score = -997
	case qos == v1.PodQOSBurstable && memory > 0:
		// The share of the machine that it asked for, so that using less than that makes it unlikely to be chosen.
		score = min(max(1000-int(1000*request/memory), 3), 999)
	}
	return max(score, floor)
}
