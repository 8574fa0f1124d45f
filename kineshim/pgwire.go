package kineshim

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// PostgreSQL's frontend/backend protocol 3, as far as the relay must understand it: chapters "Message Flow" and "Message
// Formats" of the manual.
const (
	cancelRequestCode = 80877102
	sslRequestCode    = 80877103
	gssRequestCode    = 80877104
	// maxStartup is PostgreSQL's own MAX_STARTUP_PACKET_LENGTH.
	maxStartup = 10000
	// maxInspected bounds the messages that are read whole: errors and notices. PostgreSQL's are a few hundred bytes.
	maxInspected = 1 << 20

	msgTerminate     = 'X' // from the client
	msgError         = 'E' // from the server, as the ones below
	msgNotice        = 'N'
	msgReadyForQuery = 'Z'
	// transaction states in a ReadyForQuery: idle, in a block, in a failed block
	inTransaction = 'T'
)

// readStartup reads an untyped packet, which is how a connection begins. It returns the whole packet and its code.
func readStartup(r *bufio.Reader) (packet []byte, code uint32, err error) {
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

// readHead reads the type of the next message and the length of its body.
func readHead(r *bufio.Reader) (head [5]byte, body int64, err error) {
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return head, 0, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size < 4 || size > 1<<31-1 {
		return head, 0, fmt.Errorf("message %q of %d bytes", head[0], size)
	}
	return head, int64(size) - 4, nil
}

// fields are those of an error or a notice, by their type.
type fields map[byte]string

func parseFields(body []byte) (fields, error) {
	f := fields{}
	for len(body) > 0 && body[0] != 0 {
		value, rest, ok := strings.Cut(string(body[1:]), "\x00")
		if !ok {
			return nil, errors.New("field without an end")
		}
		f[body[0]] = value
		body = []byte(rest)
	}
	return f, nil
}

func (f fields) severity() string { return f['V'] }
func (f fields) sqlState() string { return f['C'] }
func (f fields) message() string  { return f['M'] }

// String is for the log: no field of it carries a value of the database.
func (f fields) String() string {
	return fmt.Sprintf("%s: %s (SQLSTATE %s)", f.severity(), f.message(), f.sqlState())
}
