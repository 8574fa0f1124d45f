package nodemetrics

import (
	"time"

	"kineshim/monitor"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// Buckets of what takes time, from a read in memory to a failover, each 2.5 times the one before or so.
var (
	fromMicroseconds = []float64{25e-6, 100e-6, 250e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10}
	counts           = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}
)

// What is measured as it happens.
var (
	queueMetric      = histogram("kineshim_queue_seconds", "wait of an operation for its turn in the sequencer")
	batchMetric      = histogram("kineshim_batch_seconds", "for how long a batch of changes was filled before it was sent to PostgreSQL")
	commitMetric     = histogram("kineshim_commit_seconds", "time from the sending of a batch until it was durable, on the standby too while that is waited for")
	operationsMetric = histogram("kineshim_batch_operations", "operations in a batch")
	watchLagMetric   = monitor.Metric{Name: "kineshim_watch_lag_seconds", Type: monitor.Histogram, Source: "native engine, on either node",
		Help: "time from the publication of an event on this node until it was handed to the connection of a client that watches; watches that read on from the past do not count"}
	requestMetric = monitor.Metric{Name: "kineshim_request_seconds", Type: monitor.Histogram, Labels: []string{"method"},
		Help: "time to answer a unary call of etcd's API by a client of this node, waits for a primary included"}
	requestsMetric = monitor.Metric{Name: "kineshim_requests_total", Type: monitor.Counter, Labels: []string{"method", "code"}, Source: "each pair once it has happened",
		Help: "unary calls of etcd's API by clients of this node, by method and gRPC code"}
)

var measured = []monitor.Metric{requestsMetric, requestMetric, queueMetric, batchMetric, operationsMetric, commitMetric, watchLagMetric}

func histogram(name, help string) monitor.Metric {
	return monitor.Metric{Name: name, Type: monitor.Histogram, Help: help, Source: "native engine, on the primary"}
}

func newHistogram(m monitor.Metric, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: m.Name, Help: m.Help, Buckets: buckets})
}

// methods are the unary calls of etcd's API, by the names under which they are counted. Whatever else is called is "other".
var methods = []string{
	"KV/Range", "KV/Put", "KV/DeleteRange", "KV/Txn", "KV/Compact",
	"Lease/LeaseGrant", "Lease/LeaseRevoke", "Lease/LeaseTimeToLive", "Lease/LeaseLeases",
	"Cluster/MemberAdd", "Cluster/MemberRemove", "Cluster/MemberUpdate", "Cluster/MemberList", "Cluster/MemberPromote",
	"Maintenance/Alarm", "Maintenance/Status", "Maintenance/Defragment", "Maintenance/Hash", "Maintenance/HashKV", "Maintenance/MoveLeader", "Maintenance/Downgrade",
}

const (
	servicePrefix = "/etcdserverpb."
	otherMethod   = "other"
	// knownCodes is how many codes gRPC has, from OK on.
	knownCodes = int(codes.Unauthenticated) + 1
)

// requests counts and times unary calls. Nothing is looked up by strings of labels, and nothing allocated, on a call.
type requests struct {
	seconds *prometheus.HistogramVec
	total   *prometheus.CounterVec
	// of is by full method, "" for the others; it never changes. A code's counter is made with its first call.
	of map[string]*ofMethod
}

type ofMethod struct {
	name    string
	seconds prometheus.Observer
	ok      prometheus.Counter
}

func newRequests() *requests {
	r := &requests{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: requestMetric.Name, Help: requestMetric.Help, Buckets: fromMicroseconds}, requestMetric.Labels),
		total:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: requestsMetric.Name, Help: requestsMetric.Help}, requestsMetric.Labels),
		of:      map[string]*ofMethod{},
	}
	for _, m := range append([]string{otherMethod}, methods...) {
		full := servicePrefix + m
		if m == otherMethod {
			full = ""
		}
		r.of[full] = &ofMethod{name: m}
	}
	for _, m := range r.of {
		m.seconds, m.ok = r.seconds.WithLabelValues(m.name), r.total.WithLabelValues(m.name, codes.OK.String())
	}
	return r
}

func (r *requests) answered(method string, code codes.Code, took time.Duration) {
	m := r.of[method]
	if m == nil {
		m = r.of[""]
	}
	m.seconds.Observe(took.Seconds())
	if code == codes.OK {
		m.ok.Inc()
		return
	}
	if int(code) >= knownCodes {
		code = codes.Unknown
	}
	r.total.WithLabelValues(m.name, code.String()).Inc()
}
