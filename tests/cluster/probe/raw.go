// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// device is the only one that a pod has.
const device = "eth0"

// mark is in every frame that raw sends, before the kind of the frame and a full stop.
const mark = "skep-raw-"

// rawKinds make frames of the pod's own and forged ones. The honest kinds show that a sniffer sees what may pass.
var rawKinds = map[string]func(r route, payload []byte) []byte{
	"honest-ipv4":          func(r route, payload []byte) []byte { return r.ipv4(r.own4, payload) },
	"honest-ipv6":          func(r route, payload []byte) []byte { return r.ipv6(r.own6, payload) },
	"spoofed-ipv4":         func(r route, payload []byte) []byte { return r.ipv4(r.own4.Next(), payload) },
	"spoofed-ipv6":         func(r route, payload []byte) []byte { return r.ipv6(r.own6.Next(), payload) },
	"spoofed-arp":          route.arp,
	"router-advertisement": route.routerAdvertisement,
}

// route is what a pod knows about itself and whom it sends to.
type route struct {
	own4, own6, to4, to6 netip.Addr
	mac, gateway         net.HardwareAddr
}

// raw sends frames of every kind in turn, past the kernel's own stack, and reports how often.
func raw(args []string) (any, error) {
	flags := flag.NewFlagSet("raw", flag.ContinueOnError)
	length := flags.Duration("for", 3*time.Second, "how long")
	every := flags.Duration("every", 20*time.Millisecond, "pause between rounds")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	r, err := newRoute(flags.Arg(0), flags.Arg(1))
	if err != nil {
		return nil, err
	}
	fd, err := packetSocket()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// Forgeries first: a sniffer that has seen several honest frames has had the chance to see all of them.
	kinds := slices.Sorted(maps.Keys(rawKinds))
	slices.Reverse(kinds)
	rounds := 0
	ticker := time.NewTicker(*every)
	defer ticker.Stop()
	for end := time.Now().Add(*length); time.Now().Before(end); <-ticker.C {
		for _, kind := range kinds {
			if _, err := unix.Write(fd, rawKinds[kind](r, []byte(mark+kind+"."))); err != nil {
				return nil, fmt.Errorf("send %s: %w", kind, err)
			}
		}
		rounds++
	}
	return map[string]int{"rounds": rounds}, nil
}

// sniff counts the frames of raw that arrive, by kind, until it has seen some of each honest kind.
func sniff(args []string) (any, error) {
	flags := flag.NewFlagSet("sniff", flag.ContinueOnError)
	length := flags.Duration("for", 10*time.Second, "how long at most")
	enough := flags.Int("enough", 10, "of each honest kind")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	fd, err := packetSocket()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		return nil, err
	}
	seen := map[string]int{}
	buffer := make([]byte, 2048)
	for end := time.Now().Add(*length); time.Now().Before(end); {
		n, err := unix.Read(fd, buffer)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if _, after, ok := bytes.Cut(buffer[:n], []byte(mark)); ok {
			kind, _, _ := strings.Cut(string(after), ".")
			seen[kind]++
		}
		if seen["honest-ipv4"] >= *enough && seen["honest-ipv6"] >= *enough {
			break
		}
	}
	return seen, nil
}

// packetSocket sends and receives whole frames on the pod's device.
func packetSocket() (int, error) {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return -1, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func newRoute(to4, to6 string) (r route, err error) {
	if r.to4, err = netip.ParseAddr(to4); err != nil {
		return r, err
	}
	if r.to6, err = netip.ParseAddr(to6); err != nil {
		return r, err
	}
	link, err := net.InterfaceByName(device)
	if err != nil {
		return r, err
	}
	r.mac = link.HardwareAddr
	addrs, err := link.Addrs()
	if err != nil {
		return r, err
	}
	for _, a := range addrs {
		own := netip.MustParsePrefix(a.String()).Addr()
		if own.Is4() {
			r.own4 = own
		} else if !own.IsLinkLocalUnicast() {
			r.own6 = own
		}
	}
	r.gateway, err = gatewayMAC()
	return r, err
}

// gatewayMAC is in the neighbour entry that a pod is born with.
func gatewayMAC() (net.HardwareAddr, error) {
	file, err := os.Open("/proc/net/arp")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 6 && fields[5] == device {
			return net.ParseMAC(fields[3])
		}
	}
	return nil, errors.New("no neighbour on " + device)
}

func (r route) ethernet(to net.HardwareAddr, protocol uint16) []byte {
	return binary.BigEndian.AppendUint16(slices.Concat(to, r.mac), protocol)
}

// hopLimit is what neighbour discovery demands, and enough for everything else.
const hopLimit = 255

func (r route) ipv4(source netip.Addr, payload []byte) []byte {
	header := make([]byte, 20)
	header[0] = 4<<4 | 5 // version, length in words
	body := datagram(payload)
	binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(body)))
	header[8], header[9] = hopLimit, unix.IPPROTO_UDP
	copy(header[12:], source.AsSlice())
	copy(header[16:], r.to4.AsSlice())
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return slices.Concat(r.ethernet(r.gateway, unix.ETH_P_IP), header, body)
}

func (r route) ipv6(source netip.Addr, payload []byte) []byte {
	return slices.Concat(r.ethernet(r.gateway, unix.ETH_P_IPV6), headerIPv6(source, r.to6, unix.IPPROTO_UDP, datagram(payload)))
}

// arp says that the receiver's address is here.
func (r route) arp(payload []byte) []byte {
	head := []byte{0, 1, 8, 0, 6, 4, 0, 1} // Ethernet, IPv4, their lengths, a request; RFC 826
	everybody := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nobody := make([]byte, len(r.mac))
	return slices.Concat(r.ethernet(everybody, unix.ETH_P_ARP), head, r.mac, r.to4.AsSlice(), nobody, r.own4.AsSlice(), payload)
}

// routerAdvertisement offers this pod as everybody's router, RFC 4861 section 4.2.
func (r route) routerAdvertisement(payload []byte) []byte {
	const routerAdvert, lifetime = 134, 0x07
	head := []byte{routerAdvert, 0, 0, 0, 64, 0, lifetime, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	source, everybody := netip.MustParseAddr("fe80::2"), netip.MustParseAddr("ff02::1")
	packet := headerIPv6(source, everybody, unix.IPPROTO_ICMPV6, slices.Concat(head, payload))
	return slices.Concat(r.ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, unix.ETH_P_IPV6), packet)
}

func headerIPv6(source, to netip.Addr, protocol byte, body []byte) []byte {
	header := make([]byte, 8, 40)
	header[0] = 6 << 4
	binary.BigEndian.PutUint16(header[4:], uint16(len(body)))
	header[6], header[7] = protocol, hopLimit
	return slices.Concat(header, source.AsSlice(), to.AsSlice(), body)
}

// datagram is UDP. It has no checksum, which only the receiver's stack would look at.
func datagram(payload []byte) []byte {
	const discard, header = 9, 8 // RFC 863
	var out []byte
	for _, v := range []uint16{discard, discard, uint16(header + len(payload)), 0} {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	return append(out, payload...)
}

// checksum is that of IPv4 headers, RFC 1071.
func checksum(header []byte) uint16 {
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
