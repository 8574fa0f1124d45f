package kineshim

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// PostgreSQL's frontend/backend protocol 3, as far as the relay must understand it after a connection has begun: chapters "Message Flow" and
// "Message Formats" of the manual.
const (
	// maxInspected bounds the messages that are read whole: errors and notices. PostgreSQL's are a few hundred bytes.
	maxInspected = 1 << 20

	msgTerminate     = 'X' // from the client
	msgError         = 'E' // from the server, as the ones below
	msgNotice        = 'N'
	msgReadyForQuery = 'Z'
	// transaction states in a ReadyForQuery: idle, in a block, in a failed block
	inTransaction = 'T'
)

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
