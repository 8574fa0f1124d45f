package joining

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// Protocol is what guests and founder agree on speaking, by ALPN.
const Protocol = "kineshim-join/1"

// maxFrame bounds what one end makes the other read: the settings are the longest of it.
const maxFrame = 256 << 10

// Request is what a guest says. It may be said again, and gets the same answer.
type Request struct {
	Secret []byte `json:"secret"`
	// CSR is a PKCS #10 request for the key that the guest keeps, DER.
	CSR []byte `json:"csr"`
	// Name is what the guest is to be called in the cluster; Host is what its machine is called.
	Name string `json:"name"`
	Host string `json:"host"`
	// Raft, Peer and Postgres are where the others reach the guest, host:port. A witness has the first only.
	Raft     string `json:"raft"`
	Peer     string `json:"peer,omitempty"`
	Postgres string `json:"postgres,omitempty"`
	// PostgresMajor is the version of its PostgreSQL; 0: it has none.
	PostgresMajor int `json:"postgresMajor,omitempty"`
	// Dry asks whether it would be taken, and changes nothing.
	Dry bool `json:"dry,omitempty"`
}

// Answer is what the founder says.
type Answer struct {
	// Error refuses, in an operator's words.
	Error string `json:"error,omitempty"`
	// Founder is what the founder is called.
	Founder string `json:"founder,omitempty"`
	// Missing is for whom the founder still waits; the guest is to ask again.
	Missing []record.Role `json:"missing,omitempty"`
	// Enrolment is what makes the guest a member. Its certificate is without the key, which the guest has.
	Enrolment *raftwitness.Enrolment `json:"enrolment,omitempty"`
	// Settings are what both data nodes share of the configuration, as YAML.
	Settings string `json:"settings,omitempty"`
}

func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("a message of %d bytes is longer than %d", len(b), maxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("a message of %d bytes is longer than %d", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
