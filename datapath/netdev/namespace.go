// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// CreateNamespace makes a network namespace, pins it at path and runs setup inside it, on a locked thread.
//
// The pin is a bind mount in the caller's own mount namespace: a private one would hide it, and everything mounted
// later, from containerd. When anything fails nothing is left behind.
func CreateNamespace(path string, setup func() error) error {
	if err := createPinFile(path); err != nil {
		return err
	}
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if err := unix.Mount(threadNetNS(), path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin network namespace at %s: %w", path, err)
		}
		return setup()
	})
	if err != nil {
		return errors.Join(err, DeleteNamespace(path))
	}
	return nil
}

// InNamespace runs fn on a locked thread inside the namespace pinned at path.
func InNamespace(path string, fn func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	return onOwnThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return fn()
	})
}

// DeleteNamespace removes the pin. The kernel ends the namespace once its last process is gone. Absence is not an error.
func DeleteNamespace(path string) error {
	// Detached, because a process that still looks at the mount must not keep the pod's teardown waiting.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unpin network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin %s: %w", path, err)
	}
	return nil
}

// IsNamespace reports whether a network namespace is pinned at path. After a reboot the file may be there without one.
func IsNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// WriteSysctl sets a network sysctl, given by its path below /proc/sys/net, in the calling thread's namespace.
// Procfs resolves that tree by the namespace of the thread that opens the file, so no /sys has to be mounted anew.
func WriteSysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set net.%s=%s: %w", name, value, err)
	}
	return nil
}

// ReadSysctl returns a network sysctl of the calling thread's namespace, without the trailing newline.
func ReadSysctl(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net", name))
	if err != nil {
		return "", fmt.Errorf("read net.%s: %w", name, err)
	}
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
	}
	return string(b), nil
}

// onOwnThread runs fn on a thread that is never used again if its namespace could not be put back.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open(threadNetNS(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer unix.Close(home)
		err = fn()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		// Still locked: the runtime ends the thread together with this goroutine.
		done <- err
	}()
	return <-done
}

func threadNetNS() string {
	return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
}

func createPinFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder of pin: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make pin %s: %w", path, err)
	}
	return f.Close()
}
