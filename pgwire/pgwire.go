// Package pgwire reads and writes how a connection of PostgreSQL's frontend/backend protocol 3 begins: chapters "Message Flow" and "Message
// Formats" of the manual.
package pgwire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The codes of the untyped packets with which a connection begins. Every other one is the protocol's version.
const (
	CancelRequest = 80877102
	SSLRequest    = 80877103
	GSSRequest    = 80877104
)

// maxStartup is PostgreSQL's own MAX_STARTUP_PACKET_LENGTH.
const maxStartup = 10000

// ReadStartup reads an untyped packet. It returns the whole packet and its code. The reader's buffer must hold 8 bytes.
func ReadStartup(r *bufio.Reader) (packet []byte, code uint32, err error) {
	head, err := r.Peek(8)
	if err != nil {
		return nil, 0, err
	}
	size := binary.BigEndian.Uint32(head)
	if size < 8 || size > maxStartup {
		return nil, 0, fmt.Errorf("startup packet of %d bytes", size)
	}
	packet = make([]byte, size)
	if _, err := io.ReadFull(r, packet); err != nil {
		return nil, 0, err
	}
	return packet, binary.BigEndian.Uint32(packet[4:]), nil
}

// Parameters are those of a startup packet of protocol 3: user, database and so on. One that is named twice is refused: which of the two
// counts is for nobody to guess.
func Parameters(packet []byte) (map[string]string, error) {
	if len(packet) < 9 || binary.BigEndian.Uint32(packet[4:])>>16 != 3 {
		return nil, errors.New("not protocol 3")
	}
	if packet[len(packet)-1] != 0 {
		return nil, errors.New("startup packet without an end")
	}
	all := map[string]string{}
	for rest := string(packet[8:]); rest != "\x00"; {
		name, value, ok := "", "", false
		if name, rest, ok = strings.Cut(rest, "\x00"); !ok || name == "" {
			return nil, errors.New("startup packet without an end")
		}
		if value, rest, ok = strings.Cut(rest, "\x00"); !ok || rest == "" {
			return nil, errors.New("startup packet without an end")
		}
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("startup parameter %q is named twice", name)
		}
		all[name] = value
	}
	return all, nil
}

// Fatal is an ErrorResponse that ends a connection. The hint may be empty.
func Fatal(sqlState, message, hint string) []byte {
	var b []byte
	field := func(kind byte, v string) {
		if v != "" {
			b = append(append(append(b, kind), strings.ReplaceAll(v, "\x00", "?")...), 0)
		}
	}
	field('S', "FATAL")
	field('V', "FATAL")
	field('C', sqlState)
	field('M', message)
	field('H', hint)
	b = append(b, 0)
	return append(binary.BigEndian.AppendUint32([]byte{'E'}, uint32(4+len(b))), b...)
}
