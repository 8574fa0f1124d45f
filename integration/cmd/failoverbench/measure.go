package main

import (
	"time"

	"kineshim/integration/ledger"
)

// clientResult is what the clients of one kind met in a round, from the blow until the load ended. Times are milliseconds.
type clientResult struct {
	// FirstMS is the time until the next acknowledged write, in the way of the kind of blow; 0: there was none.
	FirstMS float64 `json:"firstWriteMs"`
	// LongestMS is the longest wait of any request for its answer or error.
	LongestMS      float64 `json:"longestMs"`
	LongestReadMS  float64 `json:"longestReadMs"`
	LongestWriteMS float64 `json:"longestWriteMs"`
	ReadErrors     int     `json:"readErrors"`
	WriteErrors    int     `json:"writeErrors"`
	// Codes are all errors by gRPC code.
	Codes map[string]int `json:"errorCodes,omitempty"`
	// InFlight are the writes that the blow may have hit.
	InFlight int `json:"writesInFlight"`
	// Unknown are the writes of which the client does not know whether they were done, and UnknownStored those puts among them that were.
	Unknown       int `json:"unknownWrites"`
	UnknownStored int `json:"unknownStored"`
	// ReadAttempts and WriteAttempts are the tries that failed, those among them that etcd's client repeated by itself.
	ReadAttempts  int `json:"failedReadAttempts"`
	WriteAttempts int `json:"failedWriteAttempts"`
	Requests      int `json:"requests"`
	Writes        int `json:"writes"` // acknowledged
}

// errorsBeyond are the write errors that no write in flight accounts for.
func (r clientResult) errorsBeyond() int { return max(0, r.WriteErrors-r.InFlight) }

// span is a round's course on the recorder's clock.
type span struct {
	blow, struck int64 // before the first signal, after the last
	known        int64 // the loss was noticed; no later than blow: not known
	until        int64 // where the search for pauses ends
	end          int64 // the load has ended
	kind         kind
}

// noticedWithin is when, after the blow, the outage has begun where the old primary lingers. The pause in which the cluster is paired again, later,
// takes about as long as a quick failover: it is no part of it.
const noticedWithin = time.Second

// first is the time from the blow until the next write acknowledged through the client, and whether there was one. Where the old primary lingers
// it is the end of the longest pause, or that pause's length.
func (s span) first(entries []ledger.Entry, client string) (time.Duration, bool) {
	if !s.kind.lingers {
		e, ok := ledger.FirstWriteAfter(entries, s.struck, client)
		return time.Duration(e.End - s.blow), ok
	}
	start, length := ledger.PauseAfter(entries, s.blow, s.until, client)
	if noticed := s.blow + int64(noticedWithin); start > noticed {
		start, length = ledger.PauseAfter(entries, s.blow, noticed, client)
	}
	end := start + int64(length)
	if end >= s.until { // it may go on
		var ok bool
		if end, ok = firstAcknowledged(entries, client, s.until); !ok {
			return 0, false
		}
	}
	if s.kind.pause {
		return time.Duration(end - start), true
	}
	return time.Duration(end - s.blow), true
}

// hitUntil is when the last write began that the blow may have hit. A primary that lingers is hit when it notices. A switchover is to begin no
// write that it does not end.
func (s span) hitUntil() int64 {
	switch {
	case s.kind.graceful:
		return s.blow
	case s.kind.lingers:
		return max(s.struck, s.known)
	}
	return s.struck
}

// firstAcknowledged is when a write was first acknowledged through the client at or after the instant.
func firstAcknowledged(entries []ledger.Entry, client string, instant int64) (int64, bool) {
	first := int64(0)
	for _, e := range entries {
		if e.Op.Writes() && e.Outcome == ledger.Acknowledged && e.Endpoint == client && e.End >= instant && (first == 0 || e.End < first) {
			first = e.End
		}
	}
	return first, first != 0
}

// measure sums up what the clients of one kind met. Stored are the nonces that the history has.
func (s span) measure(entries []ledger.Entry, client string, stored map[string]bool) clientResult {
	w := ledger.Measure(entries, client, s.blow, s.end)
	r := clientResult{
		LongestMS: milliseconds(max(w.LongestRead, w.LongestWrite)), LongestReadMS: milliseconds(w.LongestRead), LongestWriteMS: milliseconds(w.LongestWrite),
		ReadErrors: ledger.Errors(w.ReadErrors), WriteErrors: ledger.Errors(w.WriteErrors), Codes: map[string]int{},
		InFlight: ledger.InFlight(entries, client, s.blow, s.hitUntil()),
		Unknown:  len(w.Unknown), Requests: w.Requests, Writes: w.AcknowledgedWrites,
	}
	for _, byCode := range []map[string]int{w.ReadErrors, w.WriteErrors} {
		for code, n := range byCode {
			r.Codes[code] += n
		}
	}
	for _, nonce := range w.Unknown {
		if stored[nonce] {
			r.UnknownStored++
		}
	}
	if first, ok := s.first(entries, client); ok {
		r.FirstMS = milliseconds(first)
	}
	return r
}

// storedNonces are the nonces of all puts in a history.
func storedNonces(events []ledger.Event) map[string]bool {
	out := map[string]bool{}
	for _, e := range events {
		if !e.Deleted {
			out[e.Nonce] = true
		}
	}
	return out
}
