// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-base/version"

	"skep.dev/skep/nodeagent/cgroup"
	"skep.dev/skep/nodeagent/downward"
	"skep.dev/skep/nodeagent/ocispec"
	"skep.dev/skep/nodeagent/podsync"
)

// machine is what the agent found out about the computer it runs on.
type machine struct {
	memory int64 // bytes
	disk   int64 // bytes of the file system below DataDir
	cpus   int
	// bounding is the capability bounding set of this process: what it can hand on.
	bounding uint64
	// oomFloor is the lowest oom_score_adj that may be given to a container.
	oomFloor    int
	allocatable v1.ResourceList
	info        v1.NodeSystemInfo
}

const capSysResource = 24 // CAP_SYS_RESOURCE in linux/capability.h

func inspect(dataDir string, maxPods int) (machine, error) {
	m := machine{cpus: runtime.NumCPU(), oomFloor: -1000}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, fmt.Errorf("read memory size: %w", err)
	}
	m.memory = int64(info.Totalram) * int64(info.Unit)
	var fs unix.Statfs_t
	if err := unix.Statfs(dataDir, &fs); err != nil {
		return m, fmt.Errorf("read disk size: %w", err)
	}
	m.disk = int64(fs.Blocks) * fs.Bsize
	mask := statusField("/proc/self/status", "CapBnd")
	var err error
	if m.bounding, err = strconv.ParseUint(mask, 16, 64); err != nil {
		return m, fmt.Errorf("read own capabilities: %w", err)
	}
	if m.bounding&(1<<capSysResource) == 0 {
		// Without it nobody lowers the value below his own; the runtime's helpers have ours or a higher one.
		m.oomFloor = fileInt("/proc/self/oom_score_adj")
	}
	m.allocatable = v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(int64(m.cpus), resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(m.memory, resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(m.disk, resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	m.info = systemInfo()
	return m, nil
}

func statusField(path, name string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func fileInt(path string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return n
}

func fileText(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// kubeletVersion is what Node objects report; clients compare its first part with their own. It is set when the binary is linked.
func kubeletVersion() string { return version.Get().GitVersion }

func systemInfo() v1.NodeSystemInfo {
	var u unix.Utsname
	_ = unix.Uname(&u)
	osImage := "Linux"
	for line := range strings.Lines(fileText("/etc/os-release")) {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			osImage = strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return v1.NodeSystemInfo{
		MachineID: fileText("/etc/machine-id"), SystemUUID: fileText("/sys/class/dmi/id/product_uuid"), BootID: fileText("/proc/sys/kernel/random/boot_id"),
		KernelVersion: unix.ByteSliceToString(u.Release[:]), OSImage: osImage, KubeletVersion: kubeletVersion(),
		OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
}

func (m machine) fillLimits(pod *v1.Pod) *v1.Pod { return downward.WithAllocatable(pod, m.allocatable) }

func (m machine) oomScore(pod *v1.Pod, c *v1.Container) int {
	return ocispec.OOMScoreAdj(podsync.QOSClass(pod), c.Resources.Requests.Memory().Value(), m.memory, m.oomFloor)
}

// devices are all of the machine's, for a privileged container.
func (m machine) devices(c *v1.Container) []specs.LinuxDevice {
	if c.SecurityContext == nil || c.SecurityContext.Privileged == nil || !*c.SecurityContext.Privileged {
		return nil
	}
	s := &specs.Spec{Linux: &specs.Linux{}}
	if err := oci.WithHostDevices(context.Background(), nil, nil, s); err != nil {
		return nil
	}
	return s.Linux.Devices
}

// podLimits are the limits of the pod's control group: the sums of its containers', where all of them have one.
func podLimits(pod *v1.Pod) cgroup.Limits {
	var requests, limits, memory int64
	cpuLimited, memoryLimited := true, true
	for _, c := range pod.Spec.Containers {
		request, ok := c.Resources.Requests[v1.ResourceCPU]
		if !ok {
			request = c.Resources.Limits[v1.ResourceCPU]
		}
		requests += request.MilliValue()
		limit, ok := c.Resources.Limits[v1.ResourceCPU]
		cpuLimited = cpuLimited && ok && !limit.IsZero()
		limits += limit.MilliValue()
		bytes, ok := c.Resources.Limits[v1.ResourceMemory]
		memoryLimited = memoryLimited && ok && !bytes.IsZero()
		memory += bytes.Value()
	}
	for _, c := range pod.Spec.InitContainers {
		// Init containers run under the same group, one at a time: the group must let the largest of them be.
		request, limit, bytes := c.Resources.Requests.Cpu().MilliValue(), c.Resources.Limits.Cpu().MilliValue(), c.Resources.Limits.Memory().Value()
		requests, limits, memory = max(requests, request), max(limits, limit), max(memory, bytes)
		cpuLimited, memoryLimited = cpuLimited && limit > 0, memoryLimited && bytes > 0
	}
	l := cgroup.Limits{CPUShares: ocispec.Shares(requests)}
	if cpuLimited {
		l.CPUQuota, l.CPUPeriod = ocispec.Quota(limits)
	}
	if memoryLimited {
		l.MemoryBytes = memory
	}
	return l
}

// Pressure thresholds: those that Kubernetes documents as the defaults of hard eviction.
const (
	minFreeMemory      = 100 << 20
	minFreeDiskPercent = 10
)

func (m machine) memoryPressure() bool {
	kib, err := strconv.ParseInt(strings.TrimSuffix(statusField("/proc/meminfo", "MemAvailable"), " kB"), 10, 64)
	return err == nil && kib<<10 < minFreeMemory
}

func (m machine) diskPressure(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Blocks > 0 && fs.Bavail*100/fs.Blocks < minFreeDiskPercent
}
