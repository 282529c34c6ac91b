// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// clientVar makes this test binary a client: "tcp ADDR", "udp ADDR" (connected) or "sendto ADDR" (not connected). It prints
// what the server said and which peer it saw.
const clientVar = "SKEP_DATAPATH_TEST_CLIENT"

func TestMain(m *testing.M) {
	if what := os.Getenv(clientVar); what != "" {
		fmt.Print(client(what))
		os.Exit(0)
	}
	if task := os.Getenv(swapperVar); task != "" {
		fmt.Fprintln(os.Stderr, swap(task))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func client(what string) string {
	kind, addr, _ := strings.Cut(what, " ")
	switch kind {
	case "tcp":
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return says(nil, err)
		}
		peer := peerName(c.(*net.TCPConn))
		return says(c, nil) + " from " + peer
	case "tcp6":
		return mapped(netip.MustParseAddrPort(addr))
	case "udp":
		c, err := net.Dial("udp", addr)
		if err != nil {
			return says(nil, err)
		}
		defer c.Close()
		return ask(c.(*net.UDPConn), nil)
	case "datagrams":
		return datagrams(addr)
	default:
		to, err := net.ResolveUDPAddr("udp", addr)
		if err != nil {
			return err.Error()
		}
		c, err := net.ListenUDP("udp", nil)
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		return ask(c, to)
	}
}

// datagrams sends many from one unconnected socket and lists who answers.
func datagrams(addr string) string {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return err.Error()
	}
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	answers := map[string]bool{}
	for range 24 {
		answers[ask(c, to)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(answers)), ", ")
}

// mapped connects an AF_INET6 socket to a v4-mapped address, which Go itself never does.
func mapped(to netip.AddrPort) string {
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
	if err != nil {
		return err.Error()
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	if err := syscall.Connect(fd, &syscall.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}); err != nil {
		return refusal(err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return err.Error()
	}
	peer := peerName(c.(*net.TCPConn))
	return says(c, nil) + " from " + peer
}

// peerName asks the kernel, not Go, whom the socket is connected to.
func peerName(c *net.TCPConn) string {
	raw, err := c.SyscallConn()
	if err != nil {
		return err.Error()
	}
	var name string
	control := func(fd uintptr) {
		sa, err := syscall.Getpeername(int(fd))
		switch sa := sa.(type) {
		case *syscall.SockaddrInet4:
			name = net.JoinHostPort(net.IP(sa.Addr[:]).String(), fmt.Sprint(sa.Port))
		case *syscall.SockaddrInet6:
			name = net.JoinHostPort(net.IP(sa.Addr[:]).String(), fmt.Sprint(sa.Port))
		default:
			name = fmt.Sprint(err)
		}
	}
	if err := raw.Control(control); err != nil {
		return err.Error()
	}
	return name
}

func ask(c *net.UDPConn, to *net.UDPAddr) string {
	var err error
	if to != nil {
		_, err = c.WriteTo([]byte("?"), to)
	} else {
		_, err = c.Write([]byte("?"))
	}
	if err != nil {
		return refusal(err)
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 64)
	n, from, err := c.ReadFromUDP(buf)
	if err != nil {
		return refusal(err)
	}
	return string(buf[:n]) + " from " + from.String()
}

func refusal(err error) string {
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	}
	return err.Error()
}

// client runs a client as a process of the pod: in its network namespace and in the node's cgroup, where sockets are balanced.
func (p *pod) client(what string) string {
	t := p.world.t
	t.Helper()
	cgroup, err := os.Open(p.world.cfg.CgroupPath)
	must(t, err)
	defer cgroup.Close()
	var out bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clientVar+"="+what)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	p.world.in(p.ns, cmd.Start)
	must(t, cmd.Wait())
	return out.String()
}

// serveUDP answers every datagram with name.
func (p *pod) serveUDP(port uint16, name string) {
	p.world.t.Helper()
	var c *net.UDPConn
	p.world.in(p.ns, func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
		return err
	})
	p.world.t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := c.ReadFromUDP(buf)
			if err != nil {
				return
			}
			c.WriteTo([]byte(name), from)
		}
	}()
}
