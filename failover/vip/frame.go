package vip

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
)

// The frames are few and fixed, so they are written by hand: one packet socket sends and hears both protocols, with the hardware address
// and the source address that each needs, which sockets of a higher level choose by themselves.

const (
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	arpRequest, arpReply = 1, 2

	icmpNeighbourSolicitation, icmpNeighbourAdvertisement = 135, 136
	// naOverride makes a neighbour replace the hardware address that it knows (RFC 4861, 4.4).
	naOverride = 0x20
)

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	zeroMAC   = make(net.HardwareAddr, 6)
	// allNodes is ff02::1.
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
)

// probeFrames ask who has the address. The sender gives no address of its own, so that nobody's cache is changed.
func probeFrames(p Place) [][]byte {
	addr := p.Address.Addr()
	if addr.Is4() {
		return [][]byte{arpFrame(p.MAC, arpRequest, netip.IPv4Unspecified(), addr, zeroMAC)}
	}
	a := addr.As16()
	group := netip.AddrFrom16([16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]}) // the solicited-node address
	body := append([]byte{icmpNeighbourSolicitation, 0, 0, 0, 0, 0, 0, 0}, a[:]...)
	return [][]byte{icmpFrame(p.MAC, net.HardwareAddr{0x33, 0x33, 0xff, a[13], a[14], a[15]}, netip.IPv6Unspecified(), group, body)}
}

// announceFrames claim the address. Some hosts heed only requests, some only replies.
func announceFrames(p Place) [][]byte {
	addr := p.Address.Addr()
	if addr.Is4() {
		return [][]byte{arpFrame(p.MAC, arpRequest, addr, addr, zeroMAC), arpFrame(p.MAC, arpReply, addr, addr, broadcast)}
	}
	a := addr.As16()
	body := append([]byte{icmpNeighbourAdvertisement, 0, 0, 0, naOverride, 0, 0, 0}, a[:]...)
	body = append(append(body, 2, 1), p.MAC...) // option: the target's link-layer address
	return [][]byte{icmpFrame(p.MAC, allNodesMAC, addr, allNodes, body)}
}

// arpFrame is RFC 826's, broadcast.
func arpFrame(from net.HardwareAddr, op uint16, sender, target netip.Addr, targetMAC net.HardwareAddr) []byte {
	b := etherHeader(broadcast, from, etherARP)
	b = append(b, 0, 1, 8, 0, 6, 4) // Ethernet, IPv4, and the lengths of their addresses
	b = binary.BigEndian.AppendUint16(b, op)
	s, t := sender.As4(), target.As4()
	b = append(append(b, from...), s[:]...)
	return append(append(b, targetMAC...), t[:]...)
}

// icmpFrame is an ICMPv6 message with the hop limit of neighbour discovery. Its checksum is filled in.
func icmpFrame(from, to net.HardwareAddr, src, dst netip.Addr, body []byte) []byte {
	b := etherHeader(to, from, etherIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, 58, 255) // ICMPv6, hop limit
	s, d := src.As16(), dst.As16()
	b = append(append(b, s[:]...), d[:]...)
	binary.BigEndian.PutUint16(body[2:], icmpChecksum(s, d, body))
	return append(b, body...)
}

func etherHeader(to, from net.HardwareAddr, kind uint16) []byte {
	return binary.BigEndian.AppendUint16(append(append([]byte{}, to...), from...), kind)
}

// icmpChecksum is that of RFC 4443, 2.3, over a body whose checksum field is zero.
func icmpChecksum(src, dst [16]byte, body []byte) uint16 {
	pseudo := append(append([]byte{}, src[:]...), dst[:]...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = append(append(pseudo, 0, 0, 0, 58), body...)
	if len(pseudo)%2 == 1 {
		pseudo = append(pseudo, 0)
	}
	var sum uint32
	for i := 0; i < len(pseudo); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(pseudo[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

const etherLen, ipv6Len = 14, 40

// parseClaim reads a frame in which somebody says that an address is his own. A probe claims nothing.
func parseClaim(b []byte) (Claim, bool) {
	if len(b) < etherLen {
		return Claim{}, false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherARP:
		return parseARP(b[etherLen:])
	case etherIPv6:
		return parseAdvertisement(b)
	}
	return Claim{}, false
}

func parseARP(b []byte) (Claim, bool) {
	if len(b) < 28 || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return Claim{}, false
	}
	addr := netip.AddrFrom4([4]byte(b[14:18]))
	return Claim{addr, net.HardwareAddr(b[8:14]).String()}, !addr.IsUnspecified()
}

func parseAdvertisement(b []byte) (Claim, bool) {
	ip := b[etherLen:]
	if len(ip) < ipv6Len+24 || ip[6] != 58 || ip[7] != 255 || ip[ipv6Len] != icmpNeighbourAdvertisement {
		return Claim{}, false
	}
	icmp := ip[ipv6Len:]
	mac := net.HardwareAddr(b[6:12])
	for o := icmp[24:]; len(o) >= 8 && o[1] != 0 && len(o) >= int(o[1])*8; o = o[int(o[1])*8:] {
		if o[0] == 2 && o[1] == 1 { // the target's link-layer address
			mac = net.HardwareAddr(o[2:8])
		}
	}
	return Claim{netip.AddrFrom16([16]byte(icmp[8:24])), mac.String()}, true
}
