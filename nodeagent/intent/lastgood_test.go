// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/datapath"
	"skep.dev/skep/enforcement"
	"skep.dev/skep/nodeagent/ledger"
)

func openLastGood(t *testing.T, dir string) *LastGood {
	t.Helper()
	l, err := NewLastGood(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func lastGoodFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestLastGoodVersionsAreFoundAgain(t *testing.T) {
	dir := t.TempDir()
	l := openLastGood(t, dir)
	cluster := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "guard", UID: "../guard", Generation: 3}}
	cluster.Spec.Tier, cluster.Spec.Priority = policyv1alpha2.AdminTier, 7
	network, fresh, other := allowing("a", "web", 1, 1, 2), allowing("b", "web", 1, 1, 2), allowing("c", "web", 1, 1, 2)
	fault := ledger.Fault{Reason: enforcement.NoRoom, Message: "a map is full"}
	predecessor := allowing("c", "web", 1, 1, 1)
	predecessor.UID = "of a predecessor"
	for newest, good := range map[metav1.Object]metav1.Object{cluster: cluster, network: network, fresh: nil, other: predecessor} {
		if err := l.keep(newest, good, fault); err != nil {
			t.Fatal(err)
		}
	}
	if files := lastGoodFiles(t, dir); len(files) != 3 {
		t.Errorf("files: %v", files)
	}
	l = openLastGood(t, dir)
	for newest, want := range map[metav1.Object]metav1.Object{cluster: cluster, network: network, fresh: nil} {
		k, known := l.recall(newest)
		if !known || !reflect.DeepEqual(k.good(), want) || k.Fault != fault {
			t.Errorf("of %s was found %+v, %t", newest.GetName(), k, known)
		}
	}
	if _, known := l.recall(other); known {
		t.Error("a version of a predecessor counts")
	}
	if _, known := l.recall(network); known {
		t.Error("a version counts twice")
	}
	if err := l.drop(network.UID); err != nil {
		t.Fatal(err)
	}
	l = openLastGood(t, dir)
	if _, known := l.recall(cluster); !known || len(l.found) != 1 {
		t.Errorf("left are %v", l.found)
	}
	if err := l.dropUnclaimed(); err != nil {
		t.Fatal(err)
	}
	if files := lastGoodFiles(t, dir); len(files) != 1 || !strings.HasSuffix(files[0], keyOfGood("../guard")+".json") {
		t.Errorf("files: %v", files)
	}
}

func TestDamagedLastGoodVersionsAreLost(t *testing.T) {
	for name, damage := range map[string]func(file string) error{
		"empty":    func(file string) error { return os.Truncate(file, 0) },
		"cut off":  func(file string) error { return os.Truncate(file, 90) },
		"not JSON": func(file string) error { return os.WriteFile(file, []byte("\x00\x01"), 0o600) },
		"newer":    func(file string) error { return os.WriteFile(file, []byte(`{"version":99,"data":{}}`), 0o600) },
		"another type": func(file string) error {
			return os.WriteFile(file, []byte(`{"version":1,"data":{"uid":"uid-a","networkPolicy":{"spec":[]}}}`), 0o600)
		},
		"another policy": func(file string) error {
			return os.Rename(file, filepath.Join(filepath.Dir(file), keyOfGood("uid-c")+".json"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := openLastGood(t, dir)
			for _, p := range []string{"a", "b"} {
				policy := allowing(p, "web", 1, 1, 2)
				if err := l.keep(policy, policy, ledger.Fault{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := damage(filepath.Join(dir, keyOfGood("uid-a")+".json")); err != nil {
				t.Fatal(err)
			}
			l, err := NewLastGood(dir)
			if err == nil {
				t.Error("nobody was told")
			}
			if _, known := l.found["uid-b"]; !known || len(l.found) != 1 {
				t.Errorf("found were %v", l.found)
			}
			if files := lastGoodFiles(t, dir); len(files) != 1 {
				t.Errorf("files: %v", files)
			}
		})
	}
}

func TestLastGoodVersionsAreBounded(t *testing.T) {
	dir := t.TempDir()
	l := openLastGood(t, dir)
	for i := range keptPolicies {
		l.note(types.UID(fmt.Sprint("uid-", i)), keptFile{})
	}
	if err := l.keep(allowing("a", "web", 1, 1, 1), nil, ledger.Fault{}); err == nil {
		t.Error("there was room for one policy more")
	}
	l = openLastGood(t, dir)
	l.note("large", keptFile{size: keptPolicyBytes - 300})
	if err := l.keep(allowing("a", "web", 1, 1, 1), nil, ledger.Fault{}); err != nil {
		t.Error(err)
	}
	// One that has grown leaves nothing: what is on disk is out of date.
	if err := l.keep(allowing("a", "web", 1, 1, 1), allowing("a", "web", 1, 1, 9), ledger.Fault{}); err == nil {
		t.Error("there was room for too many bytes")
	}
	if files := lastGoodFiles(t, dir); len(files) > 0 || l.bytes != keptPolicyBytes-300 {
		t.Errorf("files: %v, %d bytes", files, l.bytes)
	}
}

// TestAFileLivesWhileAPolicyIsRefused looks at the moment before each hand-over too.
func TestAFileLivesWhileAPolicyIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b := newBench(t)
		b.tr.lastGood = openLastGood(t, dir)
		count := func(want int) {
			t.Helper()
			if files := lastGoodFiles(t, dir); len(files) != want {
				t.Errorf("files: %v, want %d", files, want)
			}
		}
		b.set(allowing("a", "web", 1, 1, 1))
		count(0)
		b.set(allowing("a", "web", 2, 1, 9))
		count(1)
		b.dp.asked = func(p *datapath.PolicyState) {
			if p.CIDRs.Len() == 8 {
				count(0)
			}
		}
		b.set(allowing("a", "web", 3, 1, 8))
		count(1)
		b.dp.asked = nil
		b.set(allowing("a", "web", 4, 1, 2))
		count(0)
		b.set(allowing("a", "web", 5, 1, 9), allowing("b", "cart", 1, 1, 8))
		count(2)
		b.tr.apply(change{before: allowing("a", "web", 5, 1, 9)})
		b.step()
		count(1)
	})
}
