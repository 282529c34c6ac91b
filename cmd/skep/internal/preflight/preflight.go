// SPDX-License-Identifier: Apache-2.0

// Package preflight checks, before anything is started, whether this machine can run skep, and says what to do
// when it cannot.
package preflight

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Check is one requirement: nil, or an error that tells the user what to do.
type Check func() error

// Run makes every check and returns all faults at once, one per line.
func Run(checks ...Check) error {
	var errs []error
	for _, check := range checks {
		errs = append(errs, check())
	}
	return errors.Join(errs...)
}

// Root requires uid 0.
func Root() error {
	if os.Geteuid() != 0 {
		return errors.New("skep drives namespaces, cgroups and BPF: run it as root (sudo)")
	}
	return nil
}

// The oldest kernel that has everything the datapath cannot do without.
const minMajor, minMinor = 5, 10

// Kernel requires the baseline release.
func Kernel() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	return kernelRelease(unix.ByteSliceToString(u.Release[:]))
}

func kernelRelease(release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("kernel release %q is not understood: %w", release, err)
	}
	if major < minMajor || major == minMajor && minor < minMinor {
		return fmt.Errorf("this kernel is Linux %s: skep needs %d.%d or newer; upgrade the kernel", release, minMajor, minMinor)
	}
	return nil
}

// BPF requires a kernel with BPF programs for packets and with type information.
func BPF() error {
	if os.Geteuid() != 0 {
		return nil // Root has said so already, and the probe would only add noise
	}
	if err := features.HaveProgramType(ebpf.SchedCLS); err != nil {
		return fmt.Errorf("this kernel does not let skep load BPF programs (%w): it needs CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF, and a container needs CAP_BPF and CAP_NET_ADMIN", err)
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return errors.New("this kernel has no type information (/sys/kernel/btf/vmlinux): use one with CONFIG_DEBUG_INFO_BTF, as distributions ship them")
	}
	return nil
}

// Cgroup2 requires a mounted cgroup2 hierarchy, to which socket-level load balancing is attached.
func Cgroup2() error {
	_, err := Cgroup2Mount()
	return err
}

// Cgroup2Mount returns where cgroup2 is mounted.
func Cgroup2Mount() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("cgroup2 is not mounted: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified")
}

// Binaries requires programs in the search path.
func Binaries(names ...string) Check {
	return func() error {
		var missing []string
		for _, name := range names {
			if _, err := exec.LookPath(name); err != nil {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			list := strings.Join(missing, " ")
			return fmt.Errorf("not installed: %s; install it, on Debian: apt-get install %s", list, list)
		}
		return nil
	}
}

// Socket requires something that accepts connections on a unix socket within wait: a service that was started at the same
// moment may need a little time to listen.
func Socket(path, what string, wait time.Duration) Check {
	return func() error {
		for deadline := time.Now().Add(wait); ; time.Sleep(socketRetry) {
			conn, err := net.Dial("unix", path)
			if err == nil {
				return conn.Close()
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s does not answer at %s (%w): start it, or name its socket with the flag", what, path, err)
			}
		}
	}
}

const socketRetry = 10 * time.Millisecond

// Port requires that a TCP address can be listened on.
func Port(address string) Check {
	return func() error {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return portError(address, err)
		}
		return l.Close()
	}
}

func portError(address string, err error) error {
	_, port, _ := net.SplitHostPort(address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %s is already taken: end the process that listens on it (ss -ltnp 'sport = :%s') or choose another port", port, port)
	}
	return fmt.Errorf("listen on %s: %w", address, err)
}

// Listen listens on the first free port of 127.0.0.1: wanted, or any when any is allowed.
func Listen(wanted int, anyPort bool) (*net.TCPListener, error) {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(wanted))
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) && anyPort {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, portError(address, err)
	}
	return l.(*net.TCPListener), nil
}
