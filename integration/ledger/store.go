package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Store is what the load asks of a store. An error means that nothing is known, unless its code says that nothing was done.
type Store interface {
	// Write is a create, update or delete, told by op; value is nil for a delete, compared is 0 for a create.
	Write(ctx context.Context, op Op, key string, value []byte, compared int64) (Answer, error)
	// Get reads one key.
	Get(ctx context.Context, key string) (Answer, error)
	// List reads every key below the prefix, in pages of limit keys at one revision. Limit 0: in one page.
	List(ctx context.Context, prefix string, limit int64) (Answer, error)
}

// KV is one key in an answer.
type KV struct {
	Key      string
	Value    []byte
	Revision int64 // mod revision
}

// Answer is what a store answers.
type Answer struct {
	// Succeeded is the transaction's, for a write.
	Succeeded bool
	// Revision is the header's.
	Revision     int64
	Member, Term uint64
	// Looked says that KVs shows all of what was asked for: a read, or the Else of a write that did not succeed.
	Looked bool
	KVs    []KV
	// Deleted is how many keys a delete says it removed.
	Deleted int64
}

// Endpoint is a store as reached through one node.
type Endpoint struct {
	Name  string
	Store Store
}

// Value is what the attempt with that nonce stores: the nonce and a filling that follows from it, size bytes in all (more if the
// nonce needs it).
func Value(nonce string, size int) []byte {
	var b strings.Builder
	b.WriteString(nonce)
	b.WriteByte('\n')
	sum := sha256.Sum256([]byte(nonce))
	fill := hex.EncodeToString(sum[:])
	for b.Len() < size {
		b.WriteString(fill[:min(len(fill), size-b.Len())])
	}
	return []byte(b.String())
}

// nonceOf is the nonce of a value made by Value, or empty if the value is no such, whole and unchanged.
func nonceOf(value []byte) string {
	nonce, _, ok := strings.Cut(string(value), "\n")
	if !ok || string(Value(nonce, len(value))) != string(value) {
		return ""
	}
	return nonce
}

func seenOf(kvs []KV) []Seen {
	out := make([]Seen, len(kvs))
	for i, kv := range kvs {
		out[i] = Seen{Key: kv.Key, Nonce: nonceOf(kv.Value), Revision: kv.Revision, Empty: len(kv.Value) == 0}
	}
	return out
}
