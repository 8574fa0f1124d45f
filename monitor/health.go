package monitor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Health is what a data node says of itself to load balancers, and the body of its answers.
type Health struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	// Role is what PostgreSQL does here: primary, standby, starting, promoting, stopping, stopped, cloning, rewinding, absent, broken.
	Role string `json:"role"`
	// Epoch, Primary and Mode are the cluster record's.
	Epoch   uint64 `json:"epoch"`
	Primary string `json:"primary"`
	Mode    string `json:"mode"`
	// Armed: if the primary were lost now, the other node would take over. NotArmed says why not.
	Armed    bool     `json:"armed"`
	NotArmed []string `json:"not_armed,omitempty"`
	// GateOpen: this node answers as the primary, at this moment. Gate says why not.
	GateOpen bool   `json:"gate_open"`
	Gate     string `json:"gate,omitempty"`
	// Forwards: the primary answers, and this node passes on to it what it does not answer itself.
	Forwards bool `json:"forwards"`
	// Streaming: this is a standby, and gets the primary's WAL as it is written.
	Streaming bool `json:"streaming"`
	// LagBytes is the WAL that this standby lacks; nil: not known, or this is no standby.
	LagBytes *uint64 `json:"lag_bytes,omitempty"`
	// Decided is how long ago the node last decided what to do, which it does twenty times a second.
	Decided time.Duration `json:"-"`

	// Why says why the answer is no; "": it is yes.
	Why string `json:"why,omitempty"`
}

// aliveWithin is how long ago a node that is alive has decided at most: far longer than the busiest machine takes, and shorter than the patience
// of whoever restarts what hangs.
const aliveWithin = 10 * time.Second

// alive says why the node is not alive; "": it is.
func (h *Health) alive() string {
	if h.Decided > aliveWithin {
		return fmt.Sprintf("the node has decided nothing for %v", h.Decided.Round(time.Second))
	}
	return ""
}

// primary says why the node does not answer as the primary.
func (h *Health) primary() string {
	switch {
	case h.GateOpen:
		return ""
	case h.Gate != "":
		return "the gate is closed: " + h.Gate
	}
	return "the gate is closed"
}

// ready says why the etcd endpoint here cannot answer.
func (h *Health) ready() string {
	if h.GateOpen || h.Forwards {
		return ""
	}
	return "no primary answers, as seen from here; " + h.primary()
}

// standby says why the node is not a healthy standby that lacks at most so many bytes of WAL; maxLag < 0: however many.
func (h *Health) standby(maxLag int64) string {
	switch {
	case h.Role != "standby":
		return "PostgreSQL is not a standby here, but " + h.Role
	case h.Primary == h.Node:
		return "the cluster record names this node as the primary"
	case !h.Streaming:
		return "the standby does not stream from the primary"
	case maxLag >= 0 && h.LagBytes == nil:
		return "the standby's lag is not known"
	case maxLag >= 0 && *h.LagBytes > uint64(maxLag):
		return fmt.Sprintf("the standby lacks %d bytes of WAL, more than %d", *h.LagBytes, maxLag)
	}
	return ""
}

// NodePages are the HTTP pages of a data node. ask is called for each answer; it must not wait for anything. Where Patroni has a page of the same name, its
// answer means the same.
func NodePages(ask func() Health, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	page := func(why func(*Health, *http.Request) string, paths ...string) {
		for _, p := range paths {
			mux.HandleFunc(p, func(w http.ResponseWriter, r *http.Request) {
				h := ask()
				if h.Why = h.alive(); h.Why == "" {
					h.Why = why(&h, r)
				}
				answer(w, r, h.Why == "", h)
			})
		}
	}
	page(func(*Health, *http.Request) string { return "" }, "/healthz", "/liveness")
	page(func(h *Health, _ *http.Request) string { return h.ready() }, "/readyz", "/readiness")
	page(func(h *Health, _ *http.Request) string { return h.primary() }, "/{$}", "/primary", "/master", "/leader", "/read-write")
	page(func(h *Health, r *http.Request) string {
		maxLag, err := parseLag(r.URL.Query().Get("lag"))
		if err != nil {
			return err.Error()
		}
		return h.standby(maxLag)
	}, "/standby", "/replica")
	mux.Handle("/metrics", readOnly(metrics))
	return mux
}

// answer writes yes (200) or no (503), and why. As Patroni does, OPTIONS gets the status only; HAProxy asks so.
func answer(w http.ResponseWriter, r *http.Request, yes bool, body any) {
	if !reads(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	code := http.StatusOK
	if !yes {
		code = http.StatusServiceUnavailable
	}
	w.WriteHeader(code)
	if r.Method != http.MethodGet {
		return
	}
	b, err := json.Marshal(body)
	if err != nil {
		return // of these types there is none
	}
	_, _ = w.Write(append(b, '\n')) // an asker that has gone needs no answer
}

// reads refuses what is not a question.
func reads(w http.ResponseWriter, r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	}
	w.Header().Set("Allow", "GET, HEAD, OPTIONS")
	http.Error(w, "read only", http.StatusMethodNotAllowed)
	return false
}

func readOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if reads(w, r) {
			h.ServeHTTP(w, r)
		}
	})
}

// lagUnits are PostgreSQL's, of which Patroni takes these.
var lagUnits = []struct {
	suffix string
	bytes  int64
}{{"kB", 1 << 10}, {"MB", 1 << 20}, {"GB", 1 << 30}, {"TB", 1 << 40}, {"B", 1}, {"", 1}}

// parseLag reads a number of bytes, as 1048576 or 1MB; -1 if there is none.
func parseLag(s string) (int64, error) {
	if s == "" {
		return -1, nil
	}
	for _, u := range lagUnits {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.bytes {
			break
		}
		return n * u.bytes, nil
	}
	return 0, fmt.Errorf("lag=%q is not a number of bytes, such as 1048576 or 1MB", s)
}
