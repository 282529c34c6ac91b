// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"skep.dev/skep/datapath"
)

var (
	service4, service6 = netip.MustParseAddr("10.96.0.20"), netip.MustParseAddr("fd00:10:96::20")
	podC4, podC6       = netip.MustParseAddr("10.244.0.7"), netip.MustParseAddr("fd00:10:244::7")
)

// service is one Service port in one family.
func service(addr netip.Addr, port uint16, protocol datapath.Protocol, backends ...datapath.Backend) datapath.Service {
	return datapath.Service{
		ID:       datapath.ServiceID(fmt.Sprintf("default/%s:%d/%d", addr, port, protocol)),
		Frontend: datapath.Frontend{Addr: addr, Port: port, Protocol: protocol}, Backends: backends,
	}
}

func backend(addr netip.Addr, port uint16) datapath.Backend {
	return datapath.Backend{Addr: addr, Port: port, Local: true}
}

// services are TCP and UDP Services on b's ports 8080 and 5353, and one without backends.
func services(to4, to6 netip.Addr) []datapath.Service {
	var out []datapath.Service
	for _, pair := range [][2]netip.Addr{{service4, to4}, {service6, to6}} {
		out = append(out,
			service(pair[0], 80, datapath.TCP, backend(pair[1], 8080)),
			service(pair[0], 53, datapath.UDP, backend(pair[1], 5353)),
			service(pair[0], 81, datapath.TCP),
			service(pair[0], 54, datapath.UDP),
		)
	}
	return out
}

func TestSocketsInTheCgroupAreBalanced(t *testing.T) {
	w := newWorld(t, nil)
	if w.cfg.CgroupPath == "" {
		t.Skip("no cgroup2 mount at " + cgroupMount)
	}
	a, b := w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6)
	b.serve(8080, "b")
	b.serveUDP(5353, "b")
	must(t, w.dp.SetPolicy(context.Background(), open(a.ep.ID, b.ep.ID)))
	must(t, w.dp.SetServices(context.Background(), services(podB4, podB6)))
	for _, c := range []struct{ name, what, want string }{
		{"tcp service", "tcp 10.96.0.20:80", "b from 10.96.0.20:80"},
		{"tcp service IPv6", "tcp [fd00:10:96::20]:80", "b from [fd00:10:96::20]:80"},
		{"tcp service by a v4-mapped address", "tcp6 [::ffff:10.96.0.20]:80", "b from 10.96.0.20:80"},
		{"udp service", "udp 10.96.0.20:53", "b from 10.96.0.20:53"},
		{"udp service IPv6", "udp [fd00:10:96::20]:53", "b from [fd00:10:96::20]:53"},
		{"unconnected udp", "sendto 10.96.0.20:53", "b from 10.96.0.20:53"},
		{"unconnected udp IPv6", "sendto [fd00:10:96::20]:53", "b from [fd00:10:96::20]:53"},
		{"tcp without backends", "tcp 10.96.0.20:81", "refused"},
		{"tcp without backends IPv6", "tcp [fd00:10:96::20]:81", "refused"},
		{"udp without backends", "udp 10.96.0.20:54", "refused"},
		{"udp without backends IPv6", "udp [fd00:10:96::20]:54", "refused"},
		{"unconnected udp without backends", "sendto 10.96.0.20:54", "refused"},
		{"unconnected udp without backends IPv6", "sendto [fd00:10:96::20]:54", "refused"},
		{"a pod's own address", "tcp 10.244.0.6:8080", "b from 10.244.0.6:8080"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := a.client(c.what); got != c.want {
				t.Errorf("%s: %q, want %q", c.what, got, c.want)
			}
		})
	}
	status, err := w.dp.Status(context.Background())
	must(t, err)
	if n := count(status.Drops, "service_tuple") + count(status.Drops, "no_backend"); n != 0 {
		t.Errorf("%d packets to a Service reached the device", n)
	}
}

// What runs over datagrams, as QUIC does, may use a socket without connecting it: all of one socket's go to one backend, while
// sockets are spread.
func TestDatagramsOfASocketStayTogether(t *testing.T) {
	w := newWorld(t, nil)
	if w.cfg.CgroupPath == "" {
		t.Skip("no cgroup2 mount at " + cgroupMount)
	}
	a, b := w.addPod("a", podA4), w.addPod("b", podB4)
	b.serveUDP(5353, "one")
	b.serveUDP(5354, "two")
	must(t, w.dp.SetPolicy(context.Background(), open(a.ep.ID, b.ep.ID)))
	must(t, w.dp.SetServices(context.Background(), []datapath.Service{service(service4, 53, datapath.UDP, backend(podB4, 5353), backend(podB4, 5354))}))
	seen := map[string]int{}
	for range 16 {
		seen[a.client("datagrams 10.96.0.20:53")]++
	}
	one, two := seen["one from 10.96.0.20:53"], seen["two from 10.96.0.20:53"]
	if one+two != 16 || one == 0 || two == 0 {
		t.Errorf("answers per socket: %v", seen)
	}
}

func TestPacketsThatSocketsMissedAreBalanced(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6)
	b.serve(8080, "b")
	must(t, w.dp.SetPolicy(context.Background(), open(a.ep.ID, b.ep.ID)))
	must(t, w.dp.SetServices(context.Background(), services(podB4, podB6)))
	for _, addr := range []netip.Addr{service4, service6} {
		if got := says(a.dial(netip.AddrPortFrom(addr, 80), time.Second)); got != "b" {
			t.Errorf("%s: %s", addr, got)
		}
		if got := says(a.dial(netip.AddrPortFrom(addr, 81), short)); got != "timeout" {
			t.Errorf("%s without backends: %s", addr, got)
		}
	}
	status, err := w.dp.Status(context.Background())
	must(t, err)
	if count(status.Drops, "no_backend") == 0 {
		t.Error("a Service without backends was not counted")
	}
}

func TestBackendsChangeWithoutLosingAConnection(t *testing.T) {
	w := newWorld(t, nil)
	a, b, c := w.addPod("a", podA4, podA6), w.addPod("b", podB4, podB6), w.addPod("c", podC4, podC6)
	b.serve(8080, "b")
	c.serve(8080, "c")
	ctx := context.Background()
	must(t, w.dp.SetPolicy(ctx, open(a.ep.ID, b.ep.ID, c.ep.ID)))
	must(t, w.dp.SetServices(ctx, services(podB4, podB6)))
	conn, err := a.dial(netip.AddrPortFrom(service4, 80), time.Second)
	must(t, err)
	defer conn.Close()
	expect(t, conn, "b\n")

	must(t, w.dp.SetServices(ctx, services(podC4, podC6)))
	if got := says(a.dial(netip.AddrPortFrom(service4, 80), time.Second)); got != "c" {
		t.Errorf("a new connection reached %s", got)
	}
	echo(t, conn, "still there")
}
