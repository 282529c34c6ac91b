// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skep.dev/skep/nodeagent/runtime"
)

func TestValidateName(t *testing.T) {
	for name, ok := range map[string]bool{
		"skep": true, "a": true, "skep-e2e": true, "a1-2": true,
		"": false, "-a": false, "a-": false, "1a": false, "A": false, "a/b": false, "..": false, "agent": false, "server": false,
		"aaaaaaaaaaaaaaaaaaaa": true, "aaaaaaaaaaaaaaaaaaaaa": false,
	} {
		if err := ValidateName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNamesFollowTheArchitecture(t *testing.T) {
	n := Cluster{Name: "dev"}.Node(2)
	got := []string{n.Name(), n.Netns(), n.CgroupPath(), n.PinDir(), n.RunDir(), n.DataDir(), n.Addrs()[0].String(), n.Addrs()[1].String(), n.Cluster.ContextName()}
	want := []string{"dev-2", "skep-dev-dev-2", "/skep/dev/dev-2", "/sys/fs/bpf/skep/dev/dev-2", "/run/skep/dev/dev-2", "/var/lib/skep/dev/nodes/dev-2", "172.29.0.3", "fd00:172:29::3", "skep-dev"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestClustersDoNotOwnEachOthersNamespaces(t *testing.T) {
	for _, tc := range []struct {
		cluster, netns string
		want           bool
	}{
		{"a", "skep-a-fabric", true}, {"a", "skep-a-a-1", true}, {"a", "skep-a-a-12", true},
		{"a", "skep-a-a-fabric", false}, {"a-a", "skep-a-a-fabric", true}, {"a", "skep-a-a-a-a-1", false}, {"a-a", "skep-a-a-a-a-1", true},
		{"a", "skep-b-b-1", false}, {"a", "skep-a-a-", false}, {"a", "skep-a-a-+1", false},
	} {
		if got := (Cluster{Name: tc.cluster}).ownsNetns(tc.netns); got != tc.want {
			t.Errorf("%s owns %s: %v", tc.cluster, tc.netns, got)
		}
	}
}

func TestParseCgroups(t *testing.T) {
	for _, tc := range []struct {
		name, mountinfo string
		want            cgroups
	}{
		{
			"hybrid, one hierarchy mounted twice, a bind mount of a part",
			`34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpu,cpuacct
41 31 0:38 / /sys/fs/cgroup/unified rw shared:7 - cgroup2 cgroup2 rw
50 31 0:99 /part /mnt rw - cgroup2 cgroup2 rw
27 1 254:0 / / rw - ext4 /dev/vda rw
`,
			cgroups{{mount: "/sys/fs/cgroup/cpuset", cpuset: true}, {mount: "/sys/fs/cgroup/cpu"}, {mount: "/sys/fs/cgroup/unified", unified: true}},
		},
		{"unified", "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n", cgroups{{mount: "/sys/fs/cgroup", unified: true}}},
		{"none", "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := parseCgroups([]byte(tc.mountinfo)); !slices.Equal(got, tc.want) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestParseMountsFindsOnlyWhatIsBelow(t *testing.T) {
	mountinfo := strings.Join([]string{
		`1 0 0:1 / /run/skep/dev/n/netns/a rw - nsfs nsfs rw`,
		`2 0 0:1 / /run/skep/dev2/n rw - nsfs nsfs rw`,
		`3 0 0:1 / /var/lib/skep/dev/nodes/n/with\040blank rw - tmpfs tmpfs rw`,
		`4 0 0:1 / /run/skep/dev rw - tmpfs tmpfs rw`,
	}, "\n")
	got := parseMounts(mountinfo, []string{"/run/skep/dev", "/var/lib/skep/dev"})
	want := []string{"/run/skep/dev/n/netns/a", "/var/lib/skep/dev/nodes/n/with blank"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestShimAddress(t *testing.T) {
	for raw, want := range map[string]string{
		"unix:///run/containerd/s/abc\n":                                            "unix:///run/containerd/s/abc",
		`{"version":3,"address":"unix:///run/containerd/s/def","protocol":"ttrpc"}`: "unix:///run/containerd/s/def",
	} {
		if got := shimAddress([]byte(raw)); got != want {
			t.Errorf("%q: got %q", raw, got)
		}
	}
}

func TestEnvironmentDropsWhatIsTheUsers(t *testing.T) {
	env := []string{"PATH=/bin", "KUBECONFIG=/x", "AWS_SECRET=y", "https_proxy=http://p", "HOME=/root"}
	if d := cmp.Diff([]string{"PATH=/bin", "https_proxy=http://p", "HOME=/root"}, environment(env, true)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"PATH=/bin", "HOME=/root"}, environment(env, false)); d != "" {
		t.Errorf("without a way to proxies: %s", d)
	}
}

func TestPodUIDsComeFromAllThatAnAgentKeeps(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"pods/uid-1", "checkpoint/uid-2.json", "checkpoint/uid-1.json", "log/pods/default_web-0_uid-3"} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := podUIDs(dir), []string{"uid-1", "uid-2", "uid-3"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestShimSocketsAreToldApart(t *testing.T) {
	a, b := Cluster{Name: "a"}, Cluster{Name: "b"}
	// As containerd 1.6 names the socket of that shim.
	if got, want := runtime.ShimSocket(a.ContainerdSocket(), "skep-a-a-1", "uid"), "/run/containerd/s/f84a8751358f7655cd246dc94c5d8166cb3a386ed3f0cde5df5e438ae7846277"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if runtime.ShimSocket(a.ContainerdSocket(), "n", "uid") == runtime.ShimSocket(b.ContainerdSocket(), "n", "uid") {
		t.Error("two clusters share a socket")
	}
}

func TestTheClusterThatIsMeant(t *testing.T) {
	for _, tc := range []struct {
		there, meant, fault string
	}{
		{"", "", `there is no local cluster "other": start one with "skep up --name other"`},
		{"test", "test", `there is no local cluster "other": start one with "skep up --name other", or choose with --name among test`},
		{"a skep", "skep", `there is no local cluster "other": start one with "skep up --name other", or choose with --name among a, skep`},
		{"a b", "", `there is no local cluster "other": start one with "skep up --name other", or choose with --name among a, b`},
	} {
		var clusters []Cluster
		for _, name := range strings.Fields(tc.there) {
			clusters = append(clusters, Cluster{Name: name})
		}
		if c, _ := meant(clusters); c.Name != tc.meant {
			t.Errorf("of %q %q is meant, not %q", tc.there, c.Name, tc.meant)
		}
		if got := (Cluster{Name: "other"}).missing(clusters).Error(); got != tc.fault {
			t.Errorf("with %q: %s", tc.there, got)
		}
	}
}

func TestOnlyWhatWasWaitedForIsExplainedByALog(t *testing.T) {
	c := Cluster{Name: "logs"}
	old := dataRoot
	dataRoot = t.TempDir()
	t.Cleanup(func() { dataRoot = old })
	for _, process := range []string{"server", "logs-1", "logs-2"} {
		if err := writeFile(c.LogFile(process), []byte("log of "+process+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u := &upRun{Cluster: c, state: State{Nodes: 2}}
	for _, tc := range []struct {
		err  error
		want string
	}{
		{errors.New("cluster has 3 nodes and cannot shrink"), ""},
		{fmt.Errorf("waiting: %w; last seen: node logs-2 is not ready", context.DeadlineExceeded), "log of logs-2"},
		{fmt.Errorf("waiting: %w; last seen: refused", context.DeadlineExceeded), "log of server"},
		{fmt.Errorf("waiting: %w", processDied{"logs-1"}), "log of logs-1"},
	} {
		got := u.explain(tc.err).Error()
		if !strings.Contains(got, tc.want) || tc.want == "" && strings.Contains(got, "log of") {
			t.Errorf("%v is explained by %q, not by %q", tc.err, got, tc.want)
		}
	}
}
