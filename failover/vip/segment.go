package vip

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxFrame is more than any frame that the filter lets through needs; the rest of a longer one is cut off.
const maxFrame = 256

// packetSegment is a packet socket on one interface.
type packetSegment struct {
	place  Place
	file   *os.File
	broken atomic.Bool
	heard  func(Claim)
	done   sync.WaitGroup
}

// Open opens a packet socket, which needs CAP_NET_RAW.
func (k *Kernel) Open(p Place, heard func(Claim)) (Segment, error) {
	if len(p.MAC) != 6 {
		return nil, fmt.Errorf("%s has no Ethernet address: neighbours cannot be told of %s there", p.Interface, p.Address.Addr())
	}
	f, err := openPacket(p)
	if err != nil {
		return nil, explain("listen on "+p.Interface, err)
	}
	s := &packetSegment{place: p, file: f, heard: heard}
	s.done.Go(s.listen)
	return s, nil
}

// openPacket sets the filter before it binds: nothing unwanted is ever queued.
func openPacket(p Place) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	protocol, filter := uint16(etherARP), arpFilter
	if !p.Address.Addr().Is4() {
		protocol, filter = etherIPv6, advertisementFilter
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: p.Index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "packet:"+p.Interface), nil
}

// The filters are classic BPF: load a byte, compare, accept maxFrame bytes or none. The socket's protocol has chosen the frames already.
var (
	arpFilter = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: maxFrame}}
	// advertisementFilter: ICMPv6 right after the header, and of type neighbour advertisement.
	advertisementFilter = []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: etherLen + 6},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 58, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: etherLen + ipv6Len},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: icmpNeighbourAdvertisement, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: maxFrame},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
)

// listen ends with Close, or when the interface goes down: the keeper opens another then.
func (s *packetSegment) listen() {
	defer s.broken.Store(true)
	own, buf := s.place.MAC.String(), make([]byte, maxFrame)
	for {
		n, err := s.file.Read(buf)
		if err != nil {
			return
		}
		if c, ok := parseClaim(buf[:n]); ok && c.Address == s.place.Address.Addr() && c.MAC != own {
			s.heard(c)
		}
	}
}

func (s *packetSegment) Probe() error    { return s.send(probeFrames(s.place)) }
func (s *packetSegment) Announce() error { return s.send(announceFrames(s.place)) }
func (s *packetSegment) Broken() bool    { return s.broken.Load() }

func (s *packetSegment) send(frames [][]byte) error {
	for _, f := range frames {
		if _, err := s.file.Write(f); err != nil {
			return fmt.Errorf("tell the neighbours on %s: %w", s.place.Interface, err)
		}
	}
	return nil
}

// Close ends the listening and waits for it.
func (s *packetSegment) Close() error {
	err := s.file.Close()
	s.done.Wait()
	return err
}
