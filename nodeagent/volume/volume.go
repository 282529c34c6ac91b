// SPDX-License-Identifier: Apache-2.0

// Package volume makes a pod's volumes appear on the node and in its containers.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"skep.dev/skep/nodeagent/source"
)

// Source is where the contents of volumes come from.
type Source interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	Token(ctx context.Context, pod *v1.Pod, audience string, seconds int64) (source.Token, error)
}

// Error says which volume could not be set up. Its text is that of the FailedMount event.
type Error struct {
	Volume string
	Err    error
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Manager sets volumes up below one directory.
type Manager struct {
	dir    string
	source Source
	now    func() time.Time
}

// New returns a manager that keeps pods below dir.
func New(dir string, src Source) *Manager {
	return &Manager{dir: dir, source: src, now: time.Now}
}

// PodDir is the directory of everything that belongs to a pod.
func (m *Manager) PodDir(uid string) string { return filepath.Join(m.dir, uid) }

func (m *Manager) volumeDir(uid, plugin, name string) string {
	return filepath.Join(m.dir, uid, "volumes", "kubernetes.io~"+plugin, name)
}

// Path is where a volume of the pod is on the node.
func (m *Manager) Path(pod *v1.Pod, v *v1.Volume) (string, error) {
	uid := string(pod.UID)
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path, nil
	case v.EmptyDir != nil:
		return m.volumeDir(uid, "empty-dir", v.Name), nil
	case v.ConfigMap != nil:
		return m.volumeDir(uid, "configmap", v.Name), nil
	case v.Secret != nil:
		return m.volumeDir(uid, "secret", v.Name), nil
	case v.Projected != nil:
		return m.volumeDir(uid, "projected", v.Name), nil
	case v.DownwardAPI != nil:
		return m.volumeDir(uid, "downward-api", v.Name), nil
	default:
		return "", errors.New("this kind of volume is not supported by the node; use emptyDir, hostPath, configMap, secret, downwardAPI or projected")
	}
}

// SetUp makes all volumes of the pod ready. It is idempotent. Errors are *Error, joined.
func (m *Manager) SetUp(ctx context.Context, pod *v1.Pod) error {
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if err := m.setUp(ctx, pod, v); err != nil {
			errs = append(errs, &Error{Volume: v.Name, Err: err})
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) setUp(ctx context.Context, pod *v1.Pod, v *v1.Volume) error {
	path, err := m.Path(pod, v)
	if err != nil {
		return err
	}
	switch {
	case v.HostPath != nil:
		return checkHostPath(path, v.HostPath.Type)
	case v.EmptyDir != nil:
		return m.setUpEmptyDir(pod, path, v.EmptyDir)
	}
	files, _, err := m.files(ctx, pod, v)
	if err != nil {
		return err
	}
	if err := m.mountTmpfs(path, secretVolume(v)); err != nil {
		return err
	}
	if err := WriteAtomic(path, files); err != nil {
		return err
	}
	return own(path, fsGroup(pod))
}

// secretVolume says that a volume's content must never reach a disk.
func secretVolume(v *v1.Volume) bool { return v.Secret != nil || v.Projected != nil }

func (m *Manager) mountTmpfs(path string, memory bool) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o755); err != nil || !memory {
		return err
	}
	mounted, err := mountinfo.Mounted(path)
	if err != nil || mounted {
		return err
	}
	return unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755")
}

func (m *Manager) setUpEmptyDir(pod *v1.Pod, path string, e *v1.EmptyDirVolumeSource) error {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if e.Medium == v1.StorageMediumMemory {
		if err := mountMemory(path, e); err != nil {
			return err
		}
	}
	// Any user of the pod may write; the umask must not decide.
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	return own(path, fsGroup(pod))
}

func mountMemory(path string, e *v1.EmptyDirVolumeSource) error {
	mounted, err := mountinfo.Mounted(path)
	if err != nil || mounted {
		return err
	}
	options := "mode=0777"
	if e.SizeLimit != nil && !e.SizeLimit.IsZero() {
		options += ",size=" + strconv.FormatInt(e.SizeLimit.Value(), 10)
	}
	return unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options)
}

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// own gives a volume to the pod's group: group ownership, group access as the owner has, set-group-id on directories.
func own(path string, group *int64) error {
	if group == nil {
		return nil
	}
	return filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(p, -1, int(*group)); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode()&fs.ModeSymlink != 0 {
			return err
		}
		mode := info.Mode().Perm() | 0o440
		if d.IsDir() {
			mode = info.Mode().Perm() | 0o770 | fs.ModeSetgid
		}
		return os.Chmod(p, mode)
	})
}

// Refresh updates the volumes whose content comes from the API, and says when to do so again because a token ages.
func (m *Manager) Refresh(ctx context.Context, pod *v1.Pod) (next time.Time, err error) {
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.HostPath != nil || v.EmptyDir != nil {
			continue
		}
		files, due, err := m.files(ctx, pod, v)
		if err == nil {
			err = m.rewrite(pod, v, files)
		}
		if err != nil {
			errs = append(errs, &Error{Volume: v.Name, Err: err})
		}
		if !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return next, errors.Join(errs...)
}

func (m *Manager) rewrite(pod *v1.Pod, v *v1.Volume, files map[string]File) error {
	path, err := m.Path(pod, v)
	if err != nil {
		return err
	}
	if err := WriteAtomic(path, files); err != nil {
		return err
	}
	return own(path, fsGroup(pod))
}

// TearDown removes everything of a pod from the node. Absence is not an error.
func (m *Manager) TearDown(uid string) error {
	dir := m.PodDir(uid)
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts of pod %s: %w", uid, err)
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", mounts[i].Mountpoint, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove directory of pod %s: %w", uid, err)
	}
	return nil
}

// Pods lists the pods that have a directory.
func (m *Manager) Pods() ([]string, error) {
	entries, err := os.ReadDir(m.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// Mounts are the container's mounts. expand fills in $(VAR) in subPathExpr.
func (m *Manager) Mounts(pod *v1.Pod, c *v1.Container, expand func(string) string) ([]specs.Mount, error) {
	volumes := map[string]*v1.Volume{}
	for i := range pod.Spec.Volumes {
		volumes[pod.Spec.Volumes[i].Name] = &pod.Spec.Volumes[i]
	}
	var out []specs.Mount
	for i, vm := range c.VolumeMounts {
		v := volumes[vm.Name]
		if v == nil {
			return nil, fmt.Errorf("container %s mounts volume %q, which the pod does not have", c.Name, vm.Name)
		}
		path, err := m.Path(pod, v)
		if err != nil {
			return nil, &Error{Volume: v.Name, Err: err}
		}
		sub := vm.SubPath
		if vm.SubPathExpr != "" {
			sub = expand(vm.SubPathExpr)
		}
		if sub != "" {
			target := filepath.Join(m.PodDir(string(pod.UID)), "volume-subpaths", v.Name, c.Name, strconv.Itoa(i))
			if path, err = bindSubPath(path, sub, target, v.HostPath == nil); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
			}
		}
		out = append(out, specs.Mount{Type: "bind", Source: path, Destination: destination(vm.MountPath), Options: mountOptions(v, vm)})
	}
	return out, nil
}

func destination(path string) string {
	if !strings.HasPrefix(path, "/") {
		return "/" + path
	}
	return filepath.Clean(path)
}

func mountOptions(v *v1.Volume, vm v1.VolumeMount) []string {
	options := []string{"rbind"}
	switch {
	case vm.MountPropagation == nil || *vm.MountPropagation == v1.MountPropagationNone:
		options = append(options, "rprivate")
	case *vm.MountPropagation == v1.MountPropagationHostToContainer:
		options = append(options, "rslave")
	default:
		options = append(options, "rshared")
	}
	// What the agent fills is not the container's to change.
	if vm.ReadOnly || v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil {
		return append(options, "ro")
	}
	return append(options, "rw")
}

// bindSubPath binds a path below root to target. The path is opened without ever leaving root and bound by its descriptor, so
// that a container which swaps a link in between gains nothing.
func bindSubPath(root, sub, target string, create bool) (string, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer r.Close()
	if _, err := r.Stat(sub); errors.Is(err, fs.ErrNotExist) && create {
		if err := r.MkdirAll(sub, 0o750|fs.ModePerm); err != nil {
			return "", err
		}
	}
	f, err := r.Open(sub)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if mounted, err := mountinfo.Mounted(target); err == nil && mounted {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			return "", fmt.Errorf("unmount earlier %s: %w", target, err)
		}
	}
	if err := makeTarget(target, info.IsDir()); err != nil {
		return "", err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), target, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("bind %s: %w", sub, err)
	}
	return target, nil
}

func makeTarget(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}
