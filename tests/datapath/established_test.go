// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"skep.dev/skep/datapath"
	"skep.dev/skep/datapath/kernel"
	"skep.dev/skep/datapath/loader"
)

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != want {
		t.Fatalf("read %q, %v; want %q", buf, err, want)
	}
}

// echo sends a line to an echoing server and awaits it.
func echo(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if _, err := c.Write([]byte(line)); err != nil {
		t.Fatal(err)
	}
	expect(t, c, line)
}

// silent sends a line and makes sure that nothing comes back.
func silent(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if _, err := c.Write([]byte(line)); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(short))
	buf := make([]byte, 64)
	if n, err := c.Read(buf); err == nil {
		t.Fatalf("%q came back", buf[:n])
	}
}

// isolated is open, but nobody may connect to id.
func isolated(id datapath.EndpointID, others ...datapath.EndpointID) *datapath.PolicyState {
	p := open(append(others, id)...)
	p.Sets["closed"] = datapath.PolicySet{ID: "closed", Default: datapath.Deny, DefaultRule: 7}
	p.Endpoints[id] = datapath.EndpointPolicy{Ingress: "closed", Egress: "open"}
	return p
}

func TestEstablishedConnectionsObeyNewPolicy(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6)
	b.serve(80, "b")
	ctx := context.Background()
	must(t, w.dp.SetPolicy(ctx, open(a.ep.ID, b.ep.ID)))
	conn, err := a.dial(netip.AddrPortFrom(podB4, 80), time.Second)
	must(t, err)
	defer conn.Close()
	expect(t, conn, "b\n")

	must(t, w.dp.SetPolicy(ctx, isolated(b.ep.ID, a.ep.ID)))
	silent(t, conn, "denied")
	must(t, w.dp.SetPolicy(ctx, open(a.ep.ID, b.ep.ID)))
	// What was sent meanwhile is sent again by TCP.
	expect(t, conn, "denied")
}

func TestTheNodeReachesItsPodsWhateverTheirPolicy(t *testing.T) {
	w := newWorld(t, nil)
	b := w.addPod("b", podB4, podB6)
	b.serve(80, "b")
	p := isolated(b.ep.ID)
	p.Endpoints[b.ep.ID] = datapath.EndpointPolicy{Ingress: "closed", Egress: "closed"}
	must(t, w.dp.SetPolicy(context.Background(), p))
	w.in(w.node, func() error {
		return addLoopback(w.cfg.NodeAddrs...)
	})
	for _, addr := range []netip.Addr{podB4, podB6} {
		var got string
		w.in(w.node, func() error {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, 80).String(), time.Second)
			got = says(c, err)
			return nil
		})
		if got != "b" {
			t.Errorf("%s from the node: %s", addr, got)
		}
	}
}

func TestRestartKeepsEverythingInForce(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6)
	b.serve(80, "b")
	b.serve(8080, "b")
	ctx := context.Background()
	must(t, w.dp.SetPolicy(ctx, open(a.ep.ID, b.ep.ID)))
	must(t, w.dp.SetServices(ctx, services(podB4, podB6)))
	conn, err := a.dial(netip.AddrPortFrom(podB4, 80), time.Second)
	must(t, err)
	defer conn.Close()
	expect(t, conn, "b\n")

	w.stop()
	echo(t, conn, "nobody is here")
	if got := says(a.dial(netip.AddrPortFrom(service4, 80), time.Second)); got != "b" {
		t.Errorf("a Service while the agent is away: %s", got)
	}
	w.start()
	echo(t, conn, "adopted")
	eps, err := w.dp.Endpoints(ctx)
	must(t, err)
	if len(eps) != 2 || eps[0].Name != "a" || eps[0].Ifindex != a.ep.Ifindex || eps[1].IfName != b.ep.IfName || len(eps[1].Addrs) != 2 {
		t.Errorf("adopted endpoints: %+v", eps)
	}
	if got := says(a.dial(netip.AddrPortFrom(podB6, 80), time.Second)); got != "b" {
		t.Errorf("before the first policy: %s", got)
	}
	must(t, w.dp.SetPolicy(ctx, isolated(b.ep.ID, a.ep.ID)))
	silent(t, conn, "denied")
	if got := says(a.dial(netip.AddrPortFrom(podB4, 80), short)); got != "timeout" {
		t.Errorf("after the first policy: %s", got)
	}
}

func TestPinsOfAnotherLayoutAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	w.stop()
	made := filepath.Join(w.cfg.PinDir, fmt.Sprint("skep_set_v", loader.LayoutVersion))
	other := filepath.Join(w.cfg.PinDir, fmt.Sprint("skep_set_v", loader.LayoutVersion-1))
	must(t, os.Rename(made, other))
	w.in(w.node, func() error {
		dp, err := kernel.New(context.Background(), w.cfg)
		if !errors.Is(err, loader.ErrLayout) {
			t.Errorf("maps of another version: %v", err)
		}
		if err == nil {
			return dp.Close()
		}
		return nil
	})
	if _, err := os.Stat(made); err == nil {
		t.Error("a map was made beside it")
	}
}
