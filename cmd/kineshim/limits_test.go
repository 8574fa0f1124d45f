package main

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"

	"kineshim/config"

	"golang.org/x/sys/unix"
)

func TestDescriptorsAreLeftForTheNodeItself(t *testing.T) {
	var plain, loaded config.Node
	loaded.APIServer = config.APIServer{Listen: ":1", MaxConnections: 1000}
	loaded.Applications.Databases = []config.Application{{Connections: 30}}
	for name, tc := range map[string]struct {
		cfg               config.Node
		descriptors, want int
	}{
		"the unit's":               {plain, 65536, 65536 - ownDescriptors - 2*peerConnections - controlConnections},
		"with all that it serves":  {loaded, 65536, 65536 - ownDescriptors - 2*peerConnections - controlConnections - 2000 - 2*(30+config.AppsBeginning)},
		"fewer than it needs":      {plain, 1024, fewestConnections},
		"more than anybody counts": {plain, 1 << 30, 1<<30 - ownDescriptors - 2*peerConnections - controlConnections},
	} {
		if got := clientRoom(tc.cfg, tc.descriptors); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
	if room := clientRoom(plain, 65536); room < config.DefaultMaxConnections {
		t.Errorf("the unit has too few descriptors for the default: %d", room)
	}
}

func TestARefusedClientIsClosedAndSaidOnce(t *testing.T) {
	var log bytes.Buffer
	cfg := config.Node{Limits: config.Limits{MaxConnections: 4}}
	l := newLimits(cfg, slog.New(slog.NewTextHandler(&log, nil)))
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := l.wrap(l.clients, raw, "client_listen")
	defer ln.Close()
	accepted := make(chan net.Conn, 10)
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	for range 8 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for range 3 { // three quarters for one machine
		defer (<-accepted).Close()
	}
	for {
		if _, refused := l.clients.Count(); refused == 5 {
			break
		}
	}
	ln.Close()
	for range accepted {
		t.Error("one too many was taken")
	}
	if got := l.sample()["client"]; got.Open != 3 || got.Refused != 5 {
		t.Errorf("%+v", got)
	}
	if n := strings.Count(log.String(), "connections are refused"); n != 1 || !strings.Contains(log.String(), " from=127.0.0.1 ") {
		t.Errorf("said %d times: %s", n, &log)
	}
}

func TestADeadPeersConnectionEndsInTime(t *testing.T) {
	ln, err := listenOn("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	raw, err := s.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var ms int
	if cerr := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	if int64(ms) != unacknowledged.Milliseconds() {
		t.Errorf("%d ms", ms)
	}
}
