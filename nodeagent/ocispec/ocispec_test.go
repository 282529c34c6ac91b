// SPDX-License-Identifier: Apache-2.0

package ocispec

import (
	"slices"
	"strings"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func input(change ...func(*Input)) Input {
	in := Input{Pod: &v1.Pod{}, Container: &v1.Container{Name: "c"}, Image: imagespec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}}
	for _, f := range change {
		f(&in)
	}
	return in
}

func TestProcessArgs(t *testing.T) {
	for _, c := range []struct{ name, command, args, want string }{
		{"the image decides", "", "", "entry cmd"},
		{"command replaces both", "sh", "", "sh"},
		{"args replace the image's arguments", "", "x y", "entry x y"},
		{"both", "sh", "x", "sh x"},
	} {
		s, err := Build(input(func(in *Input) { in.Command, in.Args = strings.Fields(c.command), strings.Fields(c.args) }))
		if err != nil || strings.Join(s.Process.Args, " ") != c.want {
			t.Errorf("%s: %v %v", c.name, s.Process.Args, err)
		}
	}
	if _, err := Build(input(func(in *Input) { in.Image = imagespec.ImageConfig{} })); err == nil || err.Error() != "no command specified" {
		t.Errorf("no command: %v", err)
	}
}

func TestCapabilities(t *testing.T) {
	yes := true
	for _, c := range []struct {
		name      string
		sc        v1.SecurityContext
		has, lack string
	}{
		{"defaults", v1.SecurityContext{}, "CAP_CHOWN", "CAP_SYS_ADMIN"},
		{"add", v1.SecurityContext{Capabilities: &v1.Capabilities{Add: []v1.Capability{"NET_ADMIN"}}}, "CAP_NET_ADMIN", "CAP_SYS_ADMIN"},
		{"drop all, add one", v1.SecurityContext{Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_BIND_SERVICE"}}}, "CAP_NET_BIND_SERVICE", "CAP_CHOWN"},
		{"add all but one", v1.SecurityContext{Capabilities: &v1.Capabilities{Drop: []v1.Capability{"SYS_TIME"}, Add: []v1.Capability{"ALL"}}}, "CAP_SYS_ADMIN", "CAP_SYS_TIME"},
		{"privileged", v1.SecurityContext{Privileged: &yes}, "CAP_SYS_ADMIN", "none"},
	} {
		s, err := Build(input(func(in *Input) { in.Container.SecurityContext = &c.sc }))
		if err != nil {
			t.Fatal(err)
		}
		have := s.Process.Capabilities.Bounding
		if !slices.Contains(have, c.has) || slices.Contains(have, c.lack) {
			t.Errorf("%s: %v", c.name, have)
		}
		Restrict(s, 1) // CAP_CHOWN only
		if got := s.Process.Capabilities.Bounding; len(got) > 1 || len(got) == 1 && got[0] != "CAP_CHOWN" {
			t.Errorf("%s restricted: %v", c.name, got)
		}
	}
	s, err := Build(input(func(in *Input) { in.User.UID = 1000 }))
	if err != nil || len(s.Process.Capabilities.Effective) != 0 || len(s.Process.Capabilities.Bounding) == 0 {
		t.Errorf("a user who is not root: %+v, %v", s.Process.Capabilities, err)
	}
}

func TestSeccompFollowsThePod(t *testing.T) {
	profile := func(kind v1.SeccompProfileType) *v1.PodSecurityContext {
		return &v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: kind}}
	}
	for _, c := range []struct {
		sc   *v1.PodSecurityContext
		want bool
	}{{nil, false}, {profile(v1.SeccompProfileTypeUnconfined), false}, {profile(v1.SeccompProfileTypeRuntimeDefault), true}} {
		s, err := Build(input(func(in *Input) {
			in.Pod.Spec.SecurityContext = c.sc
			in.Seccomp = func(*specs.Spec) *specs.LinuxSeccomp { return &specs.LinuxSeccomp{} }
		}))
		if err != nil || (s.Linux.Seccomp != nil) != c.want {
			t.Errorf("%+v: %v %v", c.sc, s.Linux.Seccomp, err)
		}
	}
	if _, err := Build(input(func(in *Input) { in.Pod.Spec.SecurityContext = profile(v1.SeccompProfileTypeLocalhost) })); err == nil {
		t.Error("a profile that cannot be applied was dropped in silence")
	}
}

func TestResources(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		l := v1.ResourceList{}
		if cpu != "" {
			l[v1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	r := Resources(v1.ResourceRequirements{Requests: list("250m", ""), Limits: list("1500m", "64Mi")})
	if *r.CPU.Shares != 256 || *r.CPU.Quota != 150000 || *r.CPU.Period != 100000 || *r.Memory.Limit != 64<<20 {
		t.Errorf("%+v %+v", r.CPU, r.Memory)
	}
	r = Resources(v1.ResourceRequirements{})
	if *r.CPU.Shares != 2 || r.CPU.Quota != nil || r.Memory != nil {
		t.Errorf("none: %+v %+v", r.CPU, r.Memory)
	}
	for _, c := range []struct {
		qos             v1.PodQOSClass
		request, memory int64
		floor, want     int
	}{
		{v1.PodQOSGuaranteed, 0, 1000, -1000, -997}, {v1.PodQOSGuaranteed, 0, 1000, 0, 0}, {v1.PodQOSBestEffort, 0, 1000, -1000, 1000},
		{v1.PodQOSBurstable, 250, 1000, -1000, 750}, {v1.PodQOSBurstable, 1000, 1000, -1000, 3},
	} {
		if got := OOMScoreAdj(c.qos, c.request, c.memory, c.floor); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestMountsComeInOrder(t *testing.T) {
	s, err := Build(input(func(in *Input) {
		in.Mounts = []specs.Mount{{Destination: "/a/b"}, {Destination: "/a"}, {Destination: "/sys/fs/cgroup", Type: "bind"}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range s.Mounts {
		got = append(got, m.Destination)
	}
	if want := "/proc /dev /dev/pts /dev/mqueue /sys /a /a/b /sys/fs/cgroup"; strings.Join(got, " ") != want {
		t.Errorf("%v", got)
	}
}
