// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// sandbox pins what the containers of a pod share besides the network: IPC and UTS namespaces and /dev/shm.
type sandbox struct{ dir string }

func (a *agent) sandboxOf(uid string) sandbox {
	return sandbox{filepath.Join(a.cfg.RunDir, "pods", uid)}
}

func (s sandbox) ipc() string { return filepath.Join(s.dir, "ipc") }
func (s sandbox) uts() string { return filepath.Join(s.dir, "uts") }
func (s sandbox) shm() string { return filepath.Join(s.dir, "shm") }

// make creates what is missing. Namespaces that are there are the pod's and stay.
func (s sandbox) make(hostname string) error {
	if err := os.MkdirAll(s.shm(), 0o1777); err != nil {
		return fmt.Errorf("make run directory of pod: %w", err)
	}
	mounted, err := mountinfo.Mounted(s.shm())
	if err == nil && !mounted {
		err = unix.Mount("shm", s.shm(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size=65536k")
	}
	if err != nil {
		return fmt.Errorf("mount shared memory of pod: %w", err)
	}
	if isNamespace(s.ipc()) && isNamespace(s.uts()) {
		return nil
	}
	done := make(chan error)
	go func() { done <- s.pin(hostname) }()
	return <-done
}

// pin makes both namespaces on a thread of its own. The goroutine ends with the thread still locked, so the runtime ends the thread:
// no other goroutine ever runs in the pod's namespaces.
func (s sandbox) pin(hostname string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make namespaces of pod: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set hostname of pod: %w", err)
	}
	for ns, target := range map[string]string{"ipc": s.ipc(), "uts": s.uts()} {
		f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return fmt.Errorf("pin namespace: %w", err)
		}
		f.Close()
		source := fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), ns)
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin %s namespace: %w", ns, err)
		}
	}
	return nil
}

func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// remove releases the namespaces. Absence is not an error.
func (s sandbox) remove() error {
	var errs []error
	for _, p := range []string{s.ipc(), s.uts(), s.shm()} {
		for {
			err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				break
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
				break
			}
		}
		if err := os.RemoveAll(p); err != nil {
			errs = append(errs, err)
		}
	}
	// The network's pin may be in the same directory; whoever is last removes it.
	if err := os.Remove(s.dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
