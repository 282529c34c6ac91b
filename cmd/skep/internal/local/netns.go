// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f on an operating-system thread of its own, which is thrown away afterwards: f may change
// the thread's namespace and cgroups without giving them back.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// inNetns runs f on a thread in the named network namespace.
func inNetns(name string, f func() error) error {
	return onThread(func() error {
		if err := enterNetns(name); err != nil {
			return err
		}
		return f()
	})
}

// enterNetns moves the calling thread, which must be locked, into the named network namespace.
func enterNetns(name string) error {
	ns, err := os.Open(filepath.Join(netnsDir, name))
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	return nil
}

// ensureNetns makes the named network namespace unless it exists. A file without a namespace behind it, which
// is what a crash or an unmount leaves, is replaced.
func ensureNetns(name string) error {
	if netnsExists(name) {
		return nil
	}
	path := filepath.Join(netnsDir, name)
	if err := shareNetnsDir(); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace dead network namespace file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("name network namespace %s: %w", name, err)
		}
		return nil
	})
}

// shareNetnsDir makes the folder of names a shared mount, as ip-netns(8) does before it makes the first. Otherwise the next
// "ip netns add" does it, and covers the names that are there: they could not be removed any more.
func shareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	share := func() error { return unix.Mount("", netnsDir, "", unix.MS_SHARED|unix.MS_REC, "") }
	err := share()
	if errors.Is(err, unix.EINVAL) { // not a mount yet
		if err = unix.Mount(netnsDir, netnsDir, "", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = share()
		}
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", netnsDir, err)
	}
	return nil
}

// dropNetnsDir takes the folder away when no name is left in it; refused while it is in use.
func dropNetnsDir() {
	if names, err := os.ReadDir(netnsDir); err != nil || len(names) > 0 {
		return
	}
	_ = unix.Unmount(netnsDir, 0)
	_ = os.Remove(netnsDir)
}

func netnsExists(name string) bool {
	var fs unix.Statfs_t
	err := unix.Statfs(filepath.Join(netnsDir, name), &fs)
	return err == nil && fs.Type == unix.NSFS_MAGIC
}

// removeNetns forgets the name; the kernel removes the namespace and its devices when its last process ends.
// Absence is not an error.
func removeNetns(name string) error {
	path := filepath.Join(netnsDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
