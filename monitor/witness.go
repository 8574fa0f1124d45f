package monitor

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Certificate is for how long a certificate is good.
type Certificate struct{ Begins, Ends time.Time }

// Lifetime is for how long it is good in all.
func (c Certificate) Lifetime() time.Duration { return c.Ends.Sub(c.Begins) }

// Witness is what a witness says of itself.
type Witness struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	// Voters are its voters, one for each cluster that it has joined.
	Voters []WitnessVoter `json:"voters"`
	// Certificates are those in use, by name.
	Certificates map[string]Certificate `json:"-"`
	// Started is when the process did.
	Started time.Time `json:"-"`
	// Refused is how many connections were closed at once because too many had not said yet who they are.
	Refused uint64 `json:"-"`

	// Why says why the answer is no; "": it is yes.
	Why string `json:"why,omitempty"`
}

// WitnessVoter is the witness's voter in one cluster.
type WitnessVoter struct {
	Cluster string `json:"cluster"`
	// Broken says why it does not vote; "": it does. The fields below are zero then, if it was never opened.
	Broken string `json:"broken,omitempty"`
	// Leader is the Raft leader that it knows; "": none. Leads: it leads itself, for a moment.
	Leader string `json:"leader"`
	Leads  bool   `json:"-"`
	// LeaderHeard is how long ago the leader was heard.
	LeaderHeard                     time.Duration `json:"-"`
	Term, CommitIndex, AppliedIndex uint64        `json:"-"`
	Epoch                           uint64        `json:"epoch"`
	Primary                         string        `json:"primary"`
	Mode                            string        `json:"mode"`
	Paused                          bool          `json:"paused"`
	Apart                           int           `json:"-"`
}

// WitnessPages are the HTTP pages of a witness. ask is called for each answer; it must not wait for anything.
func WitnessPages(ask func() Witness) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		s := ask()
		s.Why = s.broken()
		answer(w, r, s.Why == "", s)
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		s := ask()
		s.Why = s.leaderless()
		answer(w, r, s.Why == "", s)
	})
	mux.Handle("/metrics", readOnly(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", textType)
		if r.Method != http.MethodGet {
			return
		}
		s := ask()
		var p page
		for _, m := range witnessMetrics {
			p.begin(m.Metric)
			m.write(&s, func(v float64, labels ...string) { p.value(m.Metric, v, labels...) })
		}
		_, _ = w.Write(p.Bytes()) // an asker that has gone needs no answer
	})))
	return mux
}

// broken says in which clusters it does not vote.
func (s *Witness) broken() string {
	var why []string
	for _, v := range s.Voters {
		if v.Broken != "" {
			why = append(why, "cluster "+v.Cluster+": "+v.Broken)
		}
	}
	return strings.Join(why, "; ")
}

// leaderless says which clusters cannot change their record as this witness sees it.
func (s *Witness) leaderless() string {
	var why []string
	for _, v := range s.Voters {
		switch {
		case v.Broken != "":
			why = append(why, "cluster "+v.Cluster+": "+v.Broken)
		case v.Leader == "":
			why = append(why, fmt.Sprintf("cluster %s: no leader is known", v.Cluster))
		}
	}
	return strings.Join(why, "; ")
}

// witnessMetric is a metric with how it is read.
type witnessMetric struct {
	Metric
	write func(*Witness, func(v float64, labels ...string))
}

// WitnessMetrics are all that a witness has.
func WitnessMetrics() []Metric {
	var all []Metric
	for _, m := range witnessMetrics {
		all = append(all, m.Metric)
	}
	return all
}

// ofVoters is a gauge of each voter that works.
func ofVoters(name, help string, read func(WitnessVoter) float64) witnessMetric {
	return witnessMetric{Metric{Name: name, Type: Gauge, Help: help, Labels: []string{"cluster"}}, func(s *Witness, emit func(float64, ...string)) {
		for _, v := range s.Voters {
			if v.Broken == "" {
				emit(read(v), v.Cluster)
			}
		}
	}}
}

var witnessMetrics = []witnessMetric{
	{Metric{Name: "raftwitness_build_info", Type: Gauge, Help: "1, with the witness's name and version", Labels: []string{"node", "version"}},
		func(s *Witness, emit func(float64, ...string)) { emit(1, s.Node, s.Version) }},
	{Metric{Name: "raftwitness_votes", Type: Gauge, Help: "1 if it votes in the cluster, 0 if it was not able to start there, or is void", Labels: []string{"cluster"}},
		func(s *Witness, emit func(float64, ...string)) {
			for _, v := range s.Voters {
				emit(Truth(v.Broken == ""), v.Cluster)
			}
		}},
	ofVoters("raftwitness_raft_has_leader", "1 if a Raft leader is known", func(v WitnessVoter) float64 { return Truth(v.Leader != "") }),
	ofVoters("raftwitness_raft_leader", "1 if the witness itself leads, which it does for a moment only", func(v WitnessVoter) float64 { return Truth(v.Leads) }),
	{Metric{Name: "raftwitness_raft_leader_heard_seconds", Type: Gauge, Help: "time since the leader was last heard", Labels: []string{"cluster"}, Source: "while another voter leads"},
		func(s *Witness, emit func(float64, ...string)) {
			for _, v := range s.Voters {
				if v.Broken == "" && v.Leader != "" && !v.Leads {
					emit(v.LeaderHeard.Seconds(), v.Cluster)
				}
			}
		}},
	ofVoters("raftwitness_raft_term", "Raft's current term", func(v WitnessVoter) float64 { return float64(v.Term) }),
	ofVoters("raftwitness_raft_commit_index", "last committed entry of the Raft log", func(v WitnessVoter) float64 { return float64(v.CommitIndex) }),
	ofVoters("raftwitness_raft_applied_index", "last applied entry of the Raft log", func(v WitnessVoter) float64 { return float64(v.AppliedIndex) }),
	ofVoters("raftwitness_voters_apart", "voters with which no word is exchanged: they are refused, or refuse, or have not joined", func(v WitnessVoter) float64 { return float64(v.Apart) }),
	ofVoters("raftwitness_epoch", "epoch of the cluster record: goes up with each change of primary; 0: not initialised", func(v WitnessVoter) float64 { return float64(v.Epoch) }),
	ofVoters("raftwitness_paired", "1 if the cluster record says that both data nodes hold every acknowledged write", func(v WitnessVoter) float64 { return Truth(v.Mode == "paired") }),
	ofVoters("raftwitness_paused", "1 if an operator has paused automatic failover", func(v WitnessVoter) float64 { return Truth(v.Paused) }),
	{Metric{Name: "raftwitness_primary_info", Type: Gauge, Help: "1, with the primary that the cluster record names", Labels: []string{"cluster", "primary"}},
		func(s *Witness, emit func(float64, ...string)) {
			for _, v := range s.Voters {
				if v.Primary != "" {
					emit(1, v.Cluster, v.Primary)
				}
			}
		}},
	{Metric{Name: "raftwitness_certificate_expiry_timestamp_seconds", Type: Gauge, Help: "when a certificate that is in use ends, as Unix time", Labels: []string{"certificate"}},
		func(s *Witness, emit func(float64, ...string)) {
			for name, c := range s.Certificates {
				emit(float64(c.Ends.Unix()), name)
			}
		}},
	{Metric{Name: "raftwitness_certificate_lifetime_seconds", Type: Gauge, Help: "for how long it is good in all", Labels: []string{"certificate"}},
		func(s *Witness, emit func(float64, ...string)) {
			for name, c := range s.Certificates {
				emit(c.Lifetime().Seconds(), name)
			}
		}},
	{Metric{Name: "raftwitness_connections_refused_total", Type: Counter, Help: "connections that were closed at once because too many had not said yet who they are, in all or from one address"},
		func(s *Witness, emit func(float64, ...string)) { emit(float64(s.Refused)) }},
	{Metric{Name: "process_start_time_seconds", Type: Gauge, Help: "when the process started, as Unix time"},
		func(s *Witness, emit func(float64, ...string)) { emit(float64(s.Started.UnixMilli()) / 1000) }},
	{Metric{Name: "process_resident_memory_bytes", Type: Gauge, Help: "memory of the process"},
		func(_ *Witness, emit func(float64, ...string)) {
			if n, ok := residentBytes(); ok {
				emit(float64(n))
			}
		}},
}

// residentBytes is the second field of /proc/self/statm, in pages; see proc(5).
func residentBytes() (int64, bool) {
	b, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(b))
	if err != nil || len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err == nil
}

// Truth is a boolean as Prometheus has it.
func Truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
