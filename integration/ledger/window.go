package ledger

import "time"

// Window sums up what the clients of one endpoint met in a span of time.
type Window struct {
	Requests, AcknowledgedWrites int
	// LongestRead and LongestWrite are from the beginning of a request to its answer or its error, whichever came.
	LongestRead, LongestWrite time.Duration
	// ReadErrors and WriteErrors are errors by gRPC code.
	ReadErrors, WriteErrors map[string]int
	// Unknown are the nonces of puts, and empty strings for deletes, of which the client does not know whether they were done.
	Unknown []string
}

// Measure sums up the requests through the endpoint (empty: any) that were under way at any time between two instants of the recorder's clock. A
// request without an answer counts as ended at the second.
func Measure(entries []Entry, endpoint string, from, to int64) Window {
	w := Window{ReadErrors: map[string]int{}, WriteErrors: map[string]int{}}
	for _, e := range entries {
		end := e.End
		if end == 0 {
			end = max(to, e.Start)
		}
		if e.Start > to || end < from || endpoint != "" && e.Endpoint != endpoint {
			continue
		}
		w.count(e, time.Duration(end-e.Start))
	}
	return w
}

func (w *Window) count(e Entry, took time.Duration) {
	w.Requests++
	if !e.Op.Writes() {
		w.LongestRead = max(w.LongestRead, took)
		if e.Code != "" {
			w.ReadErrors[e.Code]++
		}
		return
	}
	w.LongestWrite = max(w.LongestWrite, took)
	if e.Code != "" {
		w.WriteErrors[e.Code]++
	}
	switch {
	case e.Outcome == Acknowledged:
		w.AcknowledgedWrites++
	case e.Outcome == Unknown || e.End == 0:
		w.Unknown = append(w.Unknown, e.Nonce)
	}
}

// InFlight is the number of writes through the endpoint (empty: any) that a blow which took from one instant to the other may have hit: those that were
// under way at any time between the two and had no answer by the second, an error being none.
func InFlight(entries []Entry, endpoint string, from, to int64) int {
	n := 0
	for _, e := range entries {
		if !e.Op.Writes() || endpoint != "" && e.Endpoint != endpoint || e.Start > to || e.End != 0 && e.End < from {
			continue
		}
		if e.End == 0 || e.End > to || e.Code != "" {
			n++
		}
	}
	return n
}
