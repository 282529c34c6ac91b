// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/bpfobj"
	"skep.dev/skep/datapath/kernel"
	"skep.dev/skep/datapath/progtest"
)

// swapperVar makes this test binary the owner of the datapath of a test's world until it is killed. It holds an assignment.
const swapperVar = "SKEP_SWAPPER"

// assignment is what such a process needs to know. The world's network namespace is its first extra file.
type assignment struct {
	Config kernel.Config
	A, B   datapath.Endpoint
	Seed   uint64
}

// swap takes the datapath over and swaps policies for ever, with a line for each.
func swap(text string) error {
	var task assignment
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Setns(3, unix.CLONE_NEWNET); err != nil {
		return err
	}
	dp, err := kernel.New(context.Background(), task.Config)
	if err != nil {
		return err
	}
	random := &swaps{rand.New(rand.NewPCG(task.Seed, 0)), &pod{ep: task.A}, &pod{ep: task.B}}
	for {
		if err := dp.SetPolicy(context.Background(), random.next()); err != nil {
			return err
		}
		fmt.Println("swapped")
	}
}

// TestAgentsKilledDuringSwapsDropAndLeakNothing kills the process that swaps policies again and again, at random moments. The next one takes
// over whatever was left.
func TestAgentsKilledDuringSwapsDropAndLeakNothing(t *testing.T) {
	w := newWorld(t, nil)
	seed := seedOf(t)
	random := &swaps{rand.New(rand.NewPCG(seed, 1)), w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6)}
	underTraffic(t, w, random.a, random.b, random.next(), func(traffic *standing) {
		w.stop()
		kills, swapped := timesOf(t, "SKEP_KILLS", 25), 0
		for i := range kills {
			task := assignment{Config: w.cfg, A: random.a.ep, B: random.b.ep, Seed: seed + uint64(i)}
			swapped += w.runAndKill(task, 1+random.IntN(4), time.Duration(random.IntN(15_000))*time.Microsecond)
			if traffic.failed() {
				break
			}
		}
		w.start()
		must(t, w.dp.SetPolicy(context.Background(), random.next()))
		traffic.await(10)
		t.Logf("%d processes killed after %d swaps", kills, swapped)
	})
}

// runAndKill gives the datapath to another process and kills that a moment after so many swaps.
func (w *world) runAndKill(task assignment, swaps int, after time.Duration) (swapped int) {
	w.t.Helper()
	task.Config.Logger = nil
	text, err := json.Marshal(task)
	must(w.t, err)
	fd, err := unix.Dup(int(w.node))
	must(w.t, err)
	namespace := os.NewFile(uintptr(fd), "netns")
	defer namespace.Close()
	var faults strings.Builder
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), swapperVar+"="+string(text))
	child.ExtraFiles, child.Stderr = []*os.File{namespace}, &faults
	out, err := child.StdoutPipe()
	must(w.t, err)
	must(w.t, child.Start())
	lines := bufio.NewScanner(out)
	for swapped < swaps && lines.Scan() {
		swapped++
	}
	time.Sleep(after)
	must(w.t, child.Process.Kill())
	for lines.Scan() {
		swapped++
	}
	err = child.Wait()
	var exit *exec.ExitError
	if swapped < swaps || !errors.As(err, &exit) || exit.ExitCode() >= 0 {
		w.t.Fatalf("the process that swaps policies: %v after %d swaps: %s", err, swapped, faults.String())
	}
	return swapped
}

// TestRowsOfAnUnfinishedSetAreNobodys has a process die between the rows of a set and its header: the number is free, and its rows are there.
func TestRowsOfAnUnfinishedSetAreNobodys(t *testing.T) {
	h := progtest.New(t)
	must(t, h.Endpoint("a", podA4))
	must(t, h.Endpoint("b", podB4))
	p := open("a", "b")
	p.Addresses, p.Groups = datapath.Grouped(map[netip.Addr][]datapath.AtomID{podA4: {"app=a"}})
	p.Sets["in"] = datapath.PolicySet{ID: "in", Default: datapath.Deny, Rules: []datapath.Rule{{ID: 1, Peers: []datapath.AtomID{"app=a"}, AnyPort: true}}}
	p.Endpoints["b"] = datapath.EndpointPolicy{Ingress: "in", Egress: "open"}
	must(t, h.Load(p))
	sets, err := h.Maps.Set.All()
	must(t, err)
	peers, err := h.Maps.Peer.All()
	must(t, err)
	for key, row := range peers {
		for number := range uint32(16) {
			if sets[number].Flags == 0 && key.Class != 0 {
				must(t, h.Maps.Peer.Put(bpfobj.SkepPeerKey{Set: number, Class: key.Class}, row))
			}
		}
	}
	h.Restart(t)
	must(t, h.Load(p))
	verdict(t, h, "a", datapath.Egress, first("10.244.0.5", "10.244.0.6", progtest.TCP, 80), true, 1)
	must(t, h.Node.Tidy())
	left, err := h.Maps.Peer.All()
	must(t, err)
	if len(left) != len(peers) {
		t.Errorf("%d rows, %d before", len(left), len(peers))
	}
}
