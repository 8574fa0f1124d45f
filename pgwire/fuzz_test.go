package pgwire

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

func startup(pairs ...string) []byte {
	p := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		p[pairs[i]] = pairs[i+1]
	}
	b, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: p}).Encode(nil)
	if err != nil {
		panic(err)
	}
	return b
}

// FuzzStartup: no packet is longer than PostgreSQL's longest, what was read is what was sent, and of one that is taken another decoder reads the same
// parameters: nobody gets to PostgreSQL as somebody else than was let in.
func FuzzStartup(f *testing.F) {
	f.Add(startup("user", "clerk", "database", "shop"))
	f.Add(startup("user", "clerk"))
	f.Add(append(startup("user", "clerk"), "more"...))
	f.Add([]byte{0, 0, 0, 8, 4, 210, 22, 47})
	f.Add([]byte{0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2})
	f.Add([]byte{0, 0, 0, 17, 0, 3, 0, 0, 'u', 0, 'a', 0, 'u', 0, 'b', 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0})
	f.Add(append([]byte{0, 0, 0x4e, 0x20, 0, 3, 0, 0}, make([]byte, 20_000)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		packet, code, err := ReadStartup(bufio.NewReaderSize(bytes.NewReader(b), 16))
		if err != nil {
			return
		}
		if len(packet) > maxStartup || !bytes.HasPrefix(b, packet) {
			t.Fatalf("%d bytes of %d were read: %x", len(packet), len(b), packet)
		}
		params, err := Parameters(packet)
		if err != nil {
			return
		}
		if code>>16 != 3 {
			t.Fatalf("code %d is taken for protocol 3", code)
		}
		var theirs pgproto3.StartupMessage
		if err := theirs.Decode(packet[4:]); err != nil {
			if code == pgproto3.ProtocolVersion30 {
				t.Fatalf("the other decoder does not take it: %v", err)
			}
			return // it does not know later minor versions
		}
		if len(theirs.Parameters) != len(params) {
			t.Fatalf("%q, the other decoder has %q", params, theirs.Parameters)
		}
		for k, v := range params {
			if theirs.Parameters[k] != v {
				t.Fatalf("%q, the other decoder has %q", params, theirs.Parameters)
			}
		}
	})
}

// FuzzFatal: whatever a refusal says, it is one message, and says that.
func FuzzFatal(f *testing.F) {
	f.Add("28000", "kineshim: no", "")
	f.Add("57P03", "a\x00b", "hint\xff")
	f.Fuzz(func(t *testing.T, state, message, hint string) {
		b := Fatal(state, message, hint)
		var r pgproto3.ErrorResponse
		if err := r.Decode(b[5:]); err != nil {
			t.Fatal(err)
		}
		clean := func(s string) string { return string(bytes.ReplaceAll([]byte(s), []byte{0}, []byte{'?'})) }
		if r.Severity != "FATAL" || r.Code != clean(state) || r.Message != clean(message) || r.Hint != clean(hint) {
			t.Fatalf("%+v", r)
		}
	})
}
