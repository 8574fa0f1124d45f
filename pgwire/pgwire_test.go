package pgwire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
)

func TestStartupOfARealDriverIsRead(t *testing.T) {
	want := map[string]string{"user": "app", "database": "shop", "options": ""}
	b, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersionNumber, Parameters: want}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	packet, code, err := ReadStartup(bufio.NewReader(bytes.NewReader(append(b, "more"...))))
	if err != nil || code != pgproto3.ProtocolVersionNumber || !bytes.Equal(packet, b) {
		t.Fatalf("%d, %v", code, err)
	}
	got, err := Parameters(packet)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestBadStartupIsRefused(t *testing.T) {
	packet := func(body string) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
		return append(binary.BigEndian.AppendUint32(b, 3<<16), body...)
	}
	for _, body := range []string{"", "user", "user\x00", "user\x00a", "user\x00a\x00", "\x00\x00", "user\x00a\x00\x00x", "user\x00a\x00user\x00b\x00\x00"} {
		if got, err := Parameters(packet(body)); err == nil {
			t.Errorf("%q: %v", body, got)
		}
	}
	if got, err := Parameters(packet("\x00")); err != nil || len(got) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}
	for _, b := range []string{"\x00\x00\x00\x07\x00\x03\x00\x00", "\x00\x01\x00\x00\x00\x03\x00\x00", "\x00\x00\x00\x09\x00\x03\x00\x00"} {
		if _, _, err := ReadStartup(bufio.NewReader(strings.NewReader(b))); err == nil {
			t.Errorf("%q is read", b)
		}
	}
}

func TestFatalIsReadByARealDriver(t *testing.T) {
	f := pgproto3.NewFrontend(bytes.NewReader(Fatal("57P03", "no", "yes")), nil)
	m, err := f.Receive()
	if e, ok := m.(*pgproto3.ErrorResponse); err != nil || !ok || e.Severity != "FATAL" || e.Code != "57P03" || e.Message != "no" || e.Hint != "yes" {
		t.Errorf("%+v, %v", m, err)
	}
}
