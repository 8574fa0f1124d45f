// Package ledger drives a store with Kubernetes-shaped requests, keeps an append-only record of what each was answered, and checks
// that record against what the store holds in the end.
package ledger

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"
	"time"
)

// Op is what a request asks for.
type Op string

const (
	// Create is If(mod == 0) Then Put.
	Create Op = "create"
	// Update is If(mod == compared) Then Put Else Range.
	Update Op = "update"
	// Delete is If(mod == compared) Then DeleteRange Else Range.
	Delete Op = "delete"
	// Get reads one key.
	Get Op = "get"
	// List reads every key below a prefix.
	List Op = "list"
)

// Writes says whether the request may change the store.
func (o Op) Writes() bool { return o == Create || o == Update || o == Delete }

// Puts says whether the request stores a value.
func (o Op) Puts() bool { return o == Create || o == Update }

// Outcome is what the client knows after a request.
type Outcome string

const (
	// Acknowledged: the store said that it was done (for a read: it was answered).
	Acknowledged Outcome = "acknowledged"
	// Refused: the store said that nothing was done; the comparison did not hold, or the request was not acceptable.
	Refused Outcome = "refused"
	// Unknown: no answer, or one that proves nothing. It may have been done, it may be done later.
	Unknown Outcome = "unknown"
)

// Seen is one key as an answer showed it. A key that is absent is not shown.
type Seen struct {
	Key string `json:"k"`
	// Nonce names the attempt that wrote the value. Empty: the value is none that a ledger writes, or is damaged.
	Nonce string `json:"n"`
	// Revision is the key's mod revision.
	Revision int64 `json:"r"`
	// Empty: the value has no bytes.
	Empty bool `json:"empty,omitempty"`
}

// Entry is one request and its answer. Times are nanoseconds on the recorder's monotonic clock.
type Entry struct {
	ID     int64 `json:"id"`
	Worker int   `json:"worker"`
	// Endpoint is the name of the node that was asked.
	Endpoint string `json:"endpoint,omitempty"`
	Op       Op     `json:"op"`
	// Key is the key, or the prefix of a List.
	Key string `json:"key"`
	// Nonce is unique for each attempt to store a value.
	Nonce string `json:"nonce,omitempty"`
	// Compared is the mod revision that Update and Delete require.
	Compared int64 `json:"compared,omitempty"`
	Start    int64 `json:"start"`

	// End is 0 if the answer was never recorded; the outcome is then Unknown.
	End     int64   `json:"end,omitempty"`
	Outcome Outcome `json:"outcome,omitempty"`
	// Code is the gRPC code of an error, empty if there was none.
	Code  string `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
	// Revision is the revision in the answer's header: that of the write, if one was acknowledged.
	Revision int64 `json:"revision,omitempty"`
	// Member and Term are those of the answer's header; 0 where the server gives none.
	Member uint64 `json:"member,omitempty"`
	Term   uint64 `json:"term,omitempty"`
	// Looked says that Seen is all that the answer showed of Key, so that a key not in it was absent.
	Looked bool   `json:"looked,omitempty"`
	Seen   []Seen `json:"seen,omitempty"`
	// Deleted is how many keys an acknowledged Delete says it removed.
	Deleted int64 `json:"deleted,omitempty"`
}

// showsTombstone says whether the answer to a delete that lost a race is kine's, which then shows the tombstone of a deleted key
// as if it were the key, with an empty value.
func (e *Entry) showsTombstone() bool {
	return e.Op == Delete && e.Outcome == Refused && len(e.Seen) == 1 && e.Seen[0].Empty
}

// line is what stands in the file: one when a request begins, another when it ends.
type line struct {
	Begin *Entry `json:"begin,omitempty"`
	End   *Entry `json:"end,omitempty"`
}

// Recorder keeps the record: in a file to which it only appends, and in memory. It is safe for concurrent use.
type Recorder struct {
	base time.Time

	mu      sync.Mutex // guards what follows
	file    *os.File   // nil: memory only
	enc     *json.Encoder
	entries []*Entry
	err     error // first failure to write the file
}

// NewRecorder begins a record in the file at path, which must not exist. An empty path keeps it in memory only.
func NewRecorder(path string) (*Recorder, error) {
	r := &Recorder{base: time.Now()}
	if path == "" {
		return r, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("begin record: %w", err)
	}
	r.file, r.enc = f, json.NewEncoder(f)
	return r, nil
}

// Now is the recorder's clock: nanoseconds since the record began, never 0.
func (r *Recorder) Now() int64 { return r.At(time.Now()) }

// At is an instant on the recorder's clock. The instant must carry a monotonic reading.
func (r *Recorder) At(t time.Time) int64 { return max(1, t.Sub(r.base).Nanoseconds()) }

// Time is the instant of a reading of the recorder's clock.
func (r *Recorder) Time(ns int64) time.Time { return r.base.Add(time.Duration(ns)) }

// begin records that a request starts now. The line is in the file before it returns, so before the request is sent.
func (r *Recorder) begin(e Entry) *Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.ID, e.Start = int64(len(r.entries)+1), r.Now()
	r.write(line{Begin: &e})
	p := &e
	r.entries = append(r.entries, p)
	return p
}

// end records the answer that fill puts into the entry. The end time is taken before the lock is waited for: an answer counts as
// known from the moment it arrived.
func (r *Recorder) end(e *Entry, fill func(*Entry)) Entry {
	now := r.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	fill(e)
	e.End = now
	r.write(line{End: e})
	return *e
}

func (r *Recorder) write(l line) {
	if r.enc == nil || r.err != nil {
		return
	}
	r.err = r.enc.Encode(l)
}

// Entries is a copy of the record so far.
func (r *Recorder) Entries() []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Entry, len(r.entries))
	for i, e := range r.entries {
		out[i] = *e
	}
	return out
}

// FirstWriteAfter is FirstWriteAfter of the record so far.
func (r *Recorder) FirstWriteAfter(instant int64, endpoint string) (Entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := sort.Search(len(r.entries), func(i int) bool { return r.entries[i].Start >= instant })
	var late []Entry
	for _, e := range r.entries[from:] {
		late = append(late, *e)
	}
	return FirstWriteAfter(late, instant, endpoint)
}

// Close ends the record and says whether all of it reached the file.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return r.err
	}
	err := errors.Join(r.err, r.file.Close())
	r.file, r.enc = nil, nil
	return err
}

// ReadRecord reads a record from its file. A last line that was cut off in the writing is left out.
func ReadRecord(rd io.Reader) ([]Entry, error) {
	var entries []Entry
	at := map[int64]int{}
	sc := bufio.NewScanner(rd)
	sc.Buffer(nil, 64<<20)
	var broken error
	for n := 1; sc.Scan(); n++ {
		if broken != nil {
			return nil, broken
		}
		var l line
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			broken = fmt.Errorf("read record: line %d: %w", n, err)
			continue
		}
		switch {
		case l.Begin != nil:
			at[l.Begin.ID] = len(entries)
			entries = append(entries, *l.Begin)
		case l.End != nil:
			i, ok := at[l.End.ID]
			if !ok {
				return nil, fmt.Errorf("read record: line %d: request %d ends without having begun", n, l.End.ID)
			}
			entries[i] = *l.End
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	return entries, nil
}
