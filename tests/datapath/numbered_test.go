// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// numbered is a stream of datagrams in one direction that nobody answers: each loss is one, and none hides behind a second try.
type numbered struct {
	fd   int
	sent uint32
	// What the receiver has seen is good to read when it has ended. A gap is a number that did not come when it should have.
	sequence
	overflown uint32
	ended     chan struct{}
}

// sequence counts the gaps between numbers.
type sequence struct{ next, gaps, late uint32 }

func (s *sequence) saw(number uint32) {
	if number < s.next {
		s.late++
		return
	}
	s.gaps += number - s.next
	s.next = number + 1
}

// pair is the same stream twice, sent one beside the other: through the programs, and over devices without any.
type pair struct{ through, plain *numbered }

// perTurn is how many datagrams each stream sends in a turn of the standing traffic.
const perTurn = 4

// theEnd is sent last, again and again until it arrives.
const theEnd = math.MaxUint32

// The ends of a plain pair of devices between the namespaces of the pods, which skep does not know.
var (
	plainA = []netip.Addr{netip.MustParseAddr("192.168.9.1"), netip.MustParseAddr("fd00:9::1")}
	plainB = []netip.Addr{netip.MustParseAddr("192.168.9.2"), netip.MustParseAddr("fd00:9::2")}
)

// number makes the streams of both families.
func (s *standing) number() {
	t := s.a.world.t
	t.Helper()
	s.a.world.in(s.a.ns, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "plain"
		wire := netlink.NewVeth(attrs)
		wire.PeerName, wire.PeerNamespace = "plain", netlink.NsFd(s.b.ns)
		return errors.Join(netlink.LinkAdd(wire), plainDevice(plainA, plainB))
	})
	s.b.world.in(s.b.ns, func() error { return plainDevice(plainB, plainA) })
	s.streams = map[netip.Addr]pair{}
	for i, to := range []netip.Addr{podB4, podB6} {
		s.streams[to] = pair{s.stream(to), s.stream(plainB[i])}
	}
}

// plainDevice configures one end. The host routes keep what the other pod sends to its address off the default route.
func plainDevice(own, other []netip.Addr) error {
	link, err := netlink.LinkByName("plain")
	if err != nil {
		return err
	}
	for _, a := range own {
		err = errors.Join(err, netlink.AddrAdd(link, &netlink.Addr{IPNet: host32(a), Flags: unix.IFA_F_NODAD}))
	}
	err = errors.Join(err, netlink.LinkSetUp(link))
	for _, a := range other {
		err = errors.Join(err, netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: host32(a), Scope: netlink.SCOPE_LINK}))
	}
	return errors.Join(err, awaitAddrs(own...))
}

// stream has pod b receive at an address what pod a sends.
func (s *standing) stream(to netip.Addr) *numbered {
	t := s.a.world.t
	t.Helper()
	out := &numbered{ended: make(chan struct{})}
	s.b.world.in(s.b.ns, func() error {
		fd, err := udpSocket(family(to), 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1), unix.Bind(fd, sockaddr(to, numberedUDP)))
		go out.receive(fd)
		return err
	})
	s.a.world.in(s.a.ns, func() (err error) { out.fd, err = dialFD(unix.SOCK_DGRAM, to, numberedUDP); return err })
	t.Cleanup(func() { unix.Close(out.fd) })
	return out
}

// receive counts until the end.
func (n *numbered) receive(fd int) {
	defer close(n.ended)
	buffer, control := make([]byte, 4), make([]byte, 64)
	for {
		_, length, _, _, err := unix.Recvmsg(fd, buffer, control, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return
		}
		n.overflown = max(n.overflown, overflow(control[:length]))
		number := binary.BigEndian.Uint32(buffer)
		if number == theEnd {
			return
		}
		n.saw(number)
	}
}

// overflow is how many datagrams the socket has had no room for, which the kernel says beside the next one.
func overflow(control []byte) uint32 {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data)
		}
	}
	return 0
}

func (n *numbered) write(number uint32) error {
	return again(func() error {
		_, err := unix.Write(n.fd, binary.BigEndian.AppendUint32(nil, number))
		return err
	})
}

// turn sends some datagrams each way.
func (p pair) turn() error {
	for range perTurn {
		for _, n := range []*numbered{p.through, p.plain} {
			if err := n.write(n.sent); err != nil {
				return err
			}
			n.sent++
		}
	}
	return nil
}

// end tells the receivers that nothing comes any more.
func (p pair) end() error {
	for _, n := range []*numbered{p.through, p.plain} {
		if err := n.end(); err != nil {
			return err
		}
	}
	return nil
}

func (n *numbered) end() error {
	for until := time.Now().Add(patience); time.Now().Before(until); {
		if err := n.write(theEnd); err != nil {
			return err
		}
		select {
		case <-n.ended:
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	return errors.New("the end of a numbered stream did not arrive")
}

// missing is what did not arrive for another reason than that the socket had no room.
func (n *numbered) missing() int64 {
	return int64(n.gaps) + int64(n.sent) - int64(n.next) - int64(n.overflown)
}

// compareStreams demands that the programs have lost nothing: what is missing behind them and is not missing beside them.
func (s *standing) compareStreams(t *testing.T) {
	t.Helper()
	for to, p := range s.streams {
		lost := p.through.missing() - p.plain.missing()
		t.Logf("to %s: %d datagrams through the programs, missing %d, overflown %d; beside them missing %d, overflown %d", to,
			p.through.sent, p.through.missing(), p.through.overflown, p.plain.missing(), p.plain.overflown)
		if lost != 0 || p.through.late+p.plain.late > 0 || p.through.sent == 0 {
			t.Errorf("to %s: the programs have lost %d datagrams; %d and %d came late or twice", to, lost, p.through.late, p.plain.late)
		}
	}
}

// TestGapsAreSeen counts by the rule that the streams rely on.
func TestGapsAreSeen(t *testing.T) {
	n := numbered{sent: 10, overflown: 1}
	for _, number := range []uint32{0, 1, 3, 4, 2, 7} {
		n.saw(number)
	}
	if n.gaps != 3 || n.late != 1 || n.missing() != 4 {
		t.Errorf("%d gaps, %d late, %d missing; want 3, 1 and 4",
			n.gaps, n.late, n.missing())
	}
}
