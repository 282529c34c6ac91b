// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"maps"
	"math/rand/v2"
	"testing"

	"skep.dev/skep/datapath"
)

// TestMapsKeepTheirContent edits a map and a plain one alike, and looks at all versions again in the end.
func TestMapsKeepTheirContent(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var e datapath.MapEditor[int, int]
	plain := map[int]int{}
	type version struct {
		m    datapath.Map[int, int]
		want map[int]int
	}
	versions := []version{{}}
	for range 200 {
		for range rnd.IntN(20) {
			k := rnd.IntN(500)
			if rnd.IntN(3) == 0 {
				e.Delete(k)
				delete(plain, k)
			} else {
				v := rnd.IntN(3)
				e.Put(k, v)
				plain[k] = v
			}
		}
		versions = append(versions, version{e.Map(), maps.Clone(plain)})
	}
	equal := func(a, b int) bool { return a == b }
	for i, v := range versions {
		if got := maps.Collect(v.m.All()); !maps.Equal(got, v.want) || v.m.Len() != len(v.want) {
			t.Fatalf("version %d is %v of length %d, want %v", i, got, v.m.Len(), v.want)
		}
		other := versions[rnd.IntN(len(versions))]
		differ := map[int]bool{}
		for k := range v.m.Diff(other.m, equal) {
			differ[k] = true
		}
		for k := range 500 {
			a, inA := v.want[k]
			b, inB := other.want[k]
			if got, ok := v.m.Get(k); got != a || ok != inA {
				t.Fatalf("version %d: %d is %d, %v", i, k, got, ok)
			}
			if want := a != b || inA != inB; differ[k] != want {
				t.Fatalf("version %d: %d differs: %v, want %v", i, k, differ[k], want)
			}
		}
		if v.m.Equal(other.m, equal) != maps.Equal(v.want, other.want) {
			t.Fatalf("version %d: Equal is wrong", i)
		}
	}
	if same := datapath.MapOf(plain); !same.Equal(e.Map(), equal) {
		t.Error("MapOf is not its argument")
	}
}
