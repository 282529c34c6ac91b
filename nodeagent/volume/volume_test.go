// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skep.dev/skep/nodeagent/source"
)

func files(pairs ...string) map[string]File {
	out := map[string]File{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = File{Data: []byte(pairs[i+1]), Mode: 0o640}
	}
	return out
}

// tree is what a container sees: visible names and their content.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		err := filepath.Walk(mustEval(t, filepath.Join(dir, e.Name())), func(p string, info os.FileInfo, err error) error {
			if err != nil || info.IsDir() {
				return err
			}
			data, err := os.ReadFile(p)
			out = append(out, fmt.Sprintf("%s/%s=%s", e.Name(), filepath.Base(p), data))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func mustEval(t *testing.T, p string) string {
	t.Helper()
	real, err := filepath.EvalSymlinks(p)
	if err != nil {
		t.Fatal(err)
	}
	return real
}

func TestWriteAtomicReplacesEverything(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		files map[string]File
		want  string
	}{
		{files("a", "1", "b", "2"), "a/a=1 b/b=2"},
		{files("a", "1", "b", "2"), "a/a=1 b/b=2"},
		{files("a", "3", "sub/c", "4"), "a/a=3 sub/c=4"},
		{files(), ""},
		{files("sub", "file now"), "sub/sub=file now"},
	} {
		if err := WriteAtomic(dir, c.files); err != nil {
			t.Fatal(err)
		}
		if got := tree(t, dir); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, "..v_*"))
	if len(left) != 1 {
		t.Errorf("old versions left: %v", left)
	}
	for _, bad := range []string{"../x", "/x", "..data", "a/../../x"} {
		if err := WriteAtomic(dir, files(bad, "")); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestWriteAtomicNeverShowsAMixture(t *testing.T) {
	dir := t.TempDir()
	version := func(i int) map[string]File { s := fmt.Sprint(i); return files("x", s, "y", s) }
	if err := WriteAtomic(dir, version(0)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// A reader that wants one version opens the directory once.
			now, _ := os.Readlink(filepath.Join(dir, dataLink))
			d, err := os.OpenRoot(filepath.Join(dir, now))
			if err != nil {
				continue // it was replaced in between; the next look finds the new one
			}
			x, errX := d.ReadFile("x")
			y, errY := d.ReadFile("y")
			d.Close()
			if errX == nil && errY == nil && string(x) != string(y) {
				t.Errorf("mixture %s %s", x, y)
			}
		}
	})
	for i := range 200 {
		if err := WriteAtomic(dir, version(i)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

// memory is a Source of fixed objects.
type memory struct{ config, secret map[string]map[string]string }

func missing(kind, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, name)
}

func (m memory) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if d, ok := m.config[name]; ok {
		return &v1.ConfigMap{Data: d}, nil
	}
	return nil, missing("configmaps", name)
}

func (m memory) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	d, ok := m.secret[name]
	if !ok {
		return nil, missing("secrets", name)
	}
	s := &v1.Secret{Data: map[string][]byte{}}
	for k, v := range d {
		s.Data[k] = []byte(v)
	}
	return s, nil
}

func (m memory) Token(_ context.Context, _ *v1.Pod, audience string, seconds int64) (source.Token, error) {
	return source.Token{Token: fmt.Sprintf("token for %q", audience), Refresh: time.Unix(seconds, 0)}, nil
}

func TestSetUpAndTearDown(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	src := memory{config: map[string]map[string]string{"cm": {"k": "v", "k2": "v2"}}, secret: map[string]map[string]string{"s": {"p": "hidden"}}}
	m := New(t.TempDir(), src)
	yes, group := true, int64(4242)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"app": "x"}}}
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	pod.Spec.Volumes = []v1.Volume{
		{Name: "cm", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}, Items: []v1.KeyToPath{{Key: "k", Path: "d/renamed"}}}}},
		{Name: "opt", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "absent"}, Optional: &yes}}},
		{Name: "s", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s"}}},
		{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
		{Name: "all", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		}}}},
	}
	if err := m.SetUp(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"d/renamed=v", "", "p/p=hidden", "", `labels/labels=app="x" token/token=token for ""`} {
		path, _ := m.Path(pod, &pod.Spec.Volumes[i])
		if got := tree(t, path); got != want {
			t.Errorf("%s: %q, want %q", pod.Spec.Volumes[i].Name, got, want)
		}
	}
	src.config["cm"]["k"] = "changed"
	next, err := m.Refresh(t.Context(), pod)
	if err != nil || next.Unix() != 3600 {
		t.Errorf("refresh: %v, %v", next, err)
	}
	path, _ := m.Path(pod, &pod.Spec.Volumes[0])
	if got := tree(t, path); got != "d/renamed=changed" {
		t.Errorf("after refresh: %q", got)
	}
	c := &v1.Container{Name: "c", VolumeMounts: []v1.VolumeMount{{Name: "mem", MountPath: "/m", SubPath: "a/b"}, {Name: "mem", MountPath: "/n", SubPath: "../.."}}}
	if _, err := m.Mounts(pod, c, func(s string) string { return s }); err == nil {
		t.Error("a subPath left its volume")
	}
	c.VolumeMounts = c.VolumeMounts[:1]
	mounts, err := m.Mounts(pod, c, func(s string) string { return s })
	if err != nil || len(mounts) != 1 || !strings.Contains(mounts[0].Source, "volume-subpaths") {
		t.Errorf("mounts %v, %v", mounts, err)
	}
	pod.Spec.Volumes[2].Secret.SecretName = "absent"
	if err := m.SetUp(t.Context(), pod); err == nil || err.Error() != `MountVolume.SetUp failed for volume "s" : secrets "absent" not found` {
		t.Errorf("error %v", err)
	}
	if err := m.TearDown("u"); err != nil {
		t.Fatal(err)
	}
	if pods, _ := m.Pods(); len(pods) != 0 {
		t.Errorf("left: %v", pods)
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		kind v1.HostPathType
		want string
	}{
		{dir, v1.HostPathDirectory, ""},
		{file, v1.HostPathDirectory, "hostPath type check failed: " + file + " is not a directory"},
		{file, v1.HostPathFile, ""},
		{dir, v1.HostPathSocket, "hostPath type check failed: " + dir + " is not a socket file"},
		{filepath.Join(dir, "new"), v1.HostPathDirectoryOrCreate, ""},
		{filepath.Join(dir, "newfile"), v1.HostPathFileOrCreate, ""},
		{"/dev/null", v1.HostPathCharDev, ""},
	} {
		got := ""
		if err := checkHostPath(c.path, &c.kind); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s %s: %q", c.kind, c.path, got)
		}
	}
}
