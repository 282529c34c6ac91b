// SPDX-License-Identifier: Apache-2.0

package progtest

import (
	"encoding/binary"
	"net/netip"
)

// IP protocol numbers and TCP flags.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
	SCTP   = 132

	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	ACK = 0x10

	// EchoRequest4 and the others are ICMP and ICMPv6 types.
	EchoReply4   = 0
	EchoRequest4 = 8
	EchoRequest6 = 128
	EchoReply6   = 129
)

// Sizes of headers.
const (
	etherLen = 14
	ipv4Len  = 20
	ipv6Len  = 40
)

// Packet describes one frame. Src and Dst are of one family. For ICMP, Type and ID are used instead of ports.
type Packet struct {
	Src, Dst         netip.Addr
	Protocol         uint8
	SrcPort, DstPort uint16
	// Flags of TCP; 0 means SYN, so that a Packet without any opens a connection.
	Flags uint8
	// Type and Code of ICMP, ID of echo.
	Type, Code uint8
	ID         uint16
	// Body follows the transport header.
	Body []byte
}

// Turned is the answer to a packet: ends swapped, ACK set, echo requests become replies.
func (p Packet) Turned() Packet {
	p.Src, p.Dst = p.Dst, p.Src
	p.SrcPort, p.DstPort = p.DstPort, p.SrcPort
	switch {
	case p.Protocol == TCP && p.Flags&^SYN == 0:
		p.Flags = SYN | ACK
	case p.Protocol == TCP:
		p.Flags |= ACK
	case p.Protocol == ICMP && p.Type == EchoRequest4:
		p.Type = EchoReply4
	case p.Protocol == ICMPv6 && p.Type == EchoRequest6:
		p.Type = EchoReply6
	}
	return p
}

// Bytes builds the frame, checksums included (SCTP's is left zero).
func (p Packet) Bytes() []byte {
	l4 := p.transport()
	frame := make([]byte, etherLen, etherLen+ipv6Len+len(l4))
	copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2})
	if p.Src.Is4() {
		binary.BigEndian.PutUint16(frame[12:], 0x0800)
		return append(append(frame, p.header4(len(l4))...), l4...)
	}
	binary.BigEndian.PutUint16(frame[12:], 0x86dd)
	return append(append(frame, p.header6(len(l4))...), l4...)
}

func (p Packet) header4(payload int) []byte {
	h := make([]byte, ipv4Len)
	h[0] = 0x45
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4Len+payload))
	h[8], h[9] = 64, p.Protocol
	copy(h[12:], p.Src.AsSlice())
	copy(h[16:], p.Dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], Checksum(0, h))
	return h
}

func (p Packet) header6(payload int) []byte {
	h := make([]byte, ipv6Len)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(payload))
	h[6], h[7] = p.Protocol, 64
	copy(h[8:], p.Src.AsSlice())
	copy(h[24:], p.Dst.AsSlice())
	return h
}

func (p Packet) transport() []byte {
	var h []byte
	check := 0
	switch p.Protocol {
	case TCP:
		h, check = make([]byte, 20), 16
		h[12], h[13] = 5<<4, p.Flags
		if p.Flags == 0 {
			h[13] = SYN
		}
	case UDP:
		h, check = make([]byte, 8), 6
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(p.Body)))
	case SCTP:
		h = make([]byte, 12)
	case ICMP, ICMPv6:
		h, check = make([]byte, 8), 2
		h[0], h[1] = p.Type, p.Code
		binary.BigEndian.PutUint16(h[4:], p.ID)
	default:
		return append([]byte{}, p.Body...)
	}
	if p.Protocol == TCP || p.Protocol == UDP || p.Protocol == SCTP {
		binary.BigEndian.PutUint16(h[0:], p.SrcPort)
		binary.BigEndian.PutUint16(h[2:], p.DstPort)
	}
	h = append(h, p.Body...)
	if check > 0 {
		binary.BigEndian.PutUint16(h[check:], Checksum(p.pseudo(len(h)), h))
	}
	return h
}

// pseudo is the sum of the pseudo-header, RFC 9293 section 3.1 and RFC 8200 section 8.1.
func (p Packet) pseudo(length int) uint32 {
	if p.Protocol == ICMP {
		return 0
	}
	return sum(0, p.Src.AsSlice()) + sum(0, p.Dst.AsSlice()) + uint32(p.Protocol) + uint32(length)
}

func sum(start uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		start += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		start += uint32(b[len(b)-1]) << 8
	}
	return start
}

// Checksum is the Internet checksum, RFC 1071, of b added to start.
func Checksum(start uint32, b []byte) uint16 {
	total := sum(start, b)
	for total > 0xffff {
		total = total&0xffff + total>>16
	}
	return ^uint16(total)
}
