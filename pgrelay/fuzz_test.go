package pgrelay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// talker is a client that has sent all it will.
type talker struct {
	net.Conn
	answer bytes.Buffer
	from   string
}

func (c *talker) Write(b []byte) (int, error)      { return c.answer.Write(b) }
func (c *talker) Close() error                     { return nil }
func (c *talker) SetDeadline(time.Time) error      { return nil }
func (c *talker) SetWriteDeadline(time.Time) error { return nil }
func (c *talker) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.from))
}

// FuzzBegin: whatever a client sends first, PostgreSQL is asked for nothing but the account of an application, by one of its networks, and never for
// replication or to cancel. What PostgreSQL would read is what another decoder reads.
func FuzzBegin(f *testing.F) {
	packet := func(parameters map[string]string) []byte {
		b, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: parameters}).Encode(nil)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	tls := []byte{0, 0, 0, 8, 4, 210, 22, 47}
	good := packet(map[string]string{"user": "clerk", "database": "shop"})
	f.Add(good, true)
	f.Add(good, false)
	f.Add(append(bytes.Clone(tls), good...), true)
	f.Add(packet(map[string]string{"user": "clerk", "database": "shop", "replication": "true"}), true)
	f.Add(packet(map[string]string{"user": "postgres"}), true)
	f.Add([]byte{0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2}, true)
	r, err := New(Config{
		Gate: &fakeGate{}, Accounts: []Account{{"shop", "clerk"}, {"clerk", "clerk"}}, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Socket: "/nowhere", MaxConnections: 1, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, near bool) {
		c := &talker{from: map[bool]string{true: "192.0.2.9:1", false: "198.51.100.9:1"}[near]}
		l := &link{relay: r, raw: c, client: c}
		packet, _ := l.begin(t.Context(), bufio.NewReaderSize(bytes.NewReader(b), linkBuffer))
		if c.answer.Len() > 16<<10 {
			t.Fatalf("%d bytes were answered", c.answer.Len())
		}
		if packet == nil {
			return
		}
		if !near {
			t.Fatal("he was let in from elsewhere")
		}
		if binary.BigEndian.Uint32(packet[4:])>>16 != 3 || int(binary.BigEndian.Uint32(packet)) != len(packet) {
			t.Fatalf("%x is passed on", packet)
		}
		var theirs pgproto3.StartupMessage
		if theirs.Decode(packet[4:]) != nil {
			return // it does not know later minor versions
		}
		p := theirs.Parameters
		database := p["database"]
		if database == "" {
			database = p["user"]
		}
		if _, asks := p["replication"]; asks || p["user"] != "clerk" || database != "shop" && database != "clerk" {
			t.Fatalf("%q is passed on", p)
		}
	})
}
