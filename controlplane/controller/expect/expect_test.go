// SPDX-License-Identifier: Apache-2.0

package expect

import (
	"testing"
	"time"
)

func TestTracker(t *testing.T) {
	now := time.Unix(1000, 0)
	tracker := New(func() time.Time { return now })
	settled := func(want bool, when string) {
		t.Helper()
		if got := tracker.Settled("ns/a"); got != want {
			t.Fatalf("%s: settled = %v, want %v", when, got, want)
		}
	}
	settled(true, "at first")
	tracker.Create("ns/a", "a-1")
	tracker.Delete("ns/a", "uid-2")
	settled(false, "after asking")
	tracker.Created("ns/a", "a-1")
	tracker.Created("ns/a", "a-1")
	settled(false, "with the creation seen twice and the deletion not seen")
	tracker.Created("ns/b", "a-1")
	tracker.Deleted("ns/a", "other")
	settled(false, "after seeing what nobody asked for")
	tracker.Deleted("ns/a", "uid-2")
	settled(true, "after seeing all")
	tracker.Create("ns/a", "a-3")
	now = now.Add(Timeout)
	settled(false, "at the end of the timeout")
	now = now.Add(time.Second)
	settled(true, "after the timeout")
	tracker.Create("ns/a", "a-4")
	settled(false, "after asking again")
	tracker.Forget("ns/a")
	settled(true, "when the owner is gone")
}
