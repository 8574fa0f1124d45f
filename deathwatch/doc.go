// Package deathwatch proves that a process has ended, and tells those who wait for it.
//
// A connection that is refused or reset proves nothing: a firewall can do that while the process lives. So the watched process
// keeps a child, the deathwatch, in a session of its own, which a kill of the process group does not reach. The child has the read
// end of a pipe whose only write end the process has, closed on exec, so that no other program ever holds it. The kernel closes that
// end when the last thread of the process is in its exit, from which none returns to the program. Because a descriptor may also be
// closed by mistake, the child asks for a second proof: that it has become an orphan.
//
// On the pipe go, once, the orders as JSON, and after that numbers of eight bytes: each Raft term in which the process leads, or
// 0, which releases the deathwatch without a word.
//
// If the whole machine ends, or somebody kills the deathwatch too, nothing is said, and silence has to be enough.
package deathwatch

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// opening is the first thing on the pipe.
type opening struct {
	// Parent is the PID of the watched process.
	Parent int             `json:"parent"`
	Orders json.RawMessage `json:"orders"`
}

const (
	// maxOpening is what any pipe takes at once while nobody reads, with room for a few terms: PIPE_BUF is 4096.
	maxOpening = 4000
	lengthSize = 4
	termSize   = 8
)

func encodeOpening(o opening) ([]byte, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	if len(b) > maxOpening {
		return nil, fmt.Errorf("the orders have %d bytes, %d fit", len(b), maxOpening)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...), nil
}

func readOpening(r io.Reader) (opening, error) {
	var o opening
	head := make([]byte, lengthSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return o, fmt.Errorf("read the orders: %w", err)
	}
	n := binary.BigEndian.Uint32(head)
	if n > maxOpening {
		return o, fmt.Errorf("read the orders: %d bytes announced, %d allowed", n, maxOpening)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return o, fmt.Errorf("read the orders: %w", err)
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return o, fmt.Errorf("read the orders: %w", err)
	}
	return o, nil
}

func encodeTerm(term uint64) []byte { return binary.BigEndian.AppendUint64(nil, term) }

// released is the number that is no term.
const released = 0

// errReleased ends a watch without a word.
var errReleased = errors.New("released")

// watch reads terms until the pipe ends, and returns the highest; 0 if there was none. Only the end of the pipe between two terms
// is an end: any other error is returned, and proves nothing.
func watch(r io.Reader) (uint64, error) {
	var highest uint64
	b := make([]byte, termSize)
	for {
		switch _, err := io.ReadFull(r, b); {
		case errors.Is(err, io.EOF):
			return highest, nil
		case err != nil:
			return 0, fmt.Errorf("read the terms: %w", err)
		}
		term := binary.BigEndian.Uint64(b)
		if term == released {
			return 0, errReleased
		}
		highest = max(highest, term)
	}
}
