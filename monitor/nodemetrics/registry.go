package nodemetrics

import (
	"net/http"
	"time"

	"kineshim/monitor"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
)

// Registry has a data node's metrics. Its histograms take measurements in seconds; see table.go and measured.go for what they are.
type Registry struct {
	Queue, Batch, Commit, BatchOperations, WatchLag prometheus.Histogram

	requests *requests
	registry *prometheus.Registry
}

// New makes a Registry of its own, which shares nothing with Prometheus' default one. ask is called when Prometheus asks, and must not wait.
func New(ask func() Sample) *Registry {
	r := &Registry{
		Queue: newHistogram(queueMetric, fromMicroseconds), Batch: newHistogram(batchMetric, fromMicroseconds), Commit: newHistogram(commitMetric, fromMicroseconds),
		BatchOperations: newHistogram(operationsMetric, counts), WatchLag: newHistogram(watchLagMetric, fromMicroseconds),
		requests: newRequests(), registry: prometheus.NewRegistry(),
	}
	r.registry.MustRegister(
		newCollector(ask), r.Queue, r.Batch, r.Commit, r.BatchOperations, r.WatchLag, r.requests.seconds, r.requests.total,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}

// Answered takes in a unary call of a client.
func (r *Registry) Answered(method string, code codes.Code, took time.Duration) {
	r.requests.answered(method, code, took)
}

// maxScrapes bounds the answers that are made at the same time.
const maxScrapes = 4

// Handler is the page for Prometheus.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, ErrorHandling: promhttp.ContinueOnError})
}

// Metrics are all of a data node's own metrics. Besides there are client_golang's go_* and process_*.
func Metrics() []monitor.Metric {
	var all []monitor.Metric
	for _, m := range table {
		all = append(all, m.Metric)
	}
	return append(all, measured...)
}

// collector reads a Sample.
type collector struct {
	ask   func() Sample
	descs []*prometheus.Desc // of table
}

func newCollector(ask func() Sample) *collector {
	c := &collector{ask: ask}
	for _, m := range table {
		c.descs = append(c.descs, prometheus.NewDesc(m.Name, m.Help, m.Labels, nil))
	}
	return c
}

// Describe names the metrics.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		to <- d
	}
}

// Collect reads all of them from one sample.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	s := c.ask()
	for i, m := range table {
		t := prometheus.GaugeValue
		if m.Type == monitor.Counter {
			t = prometheus.CounterValue
		}
		m.read(&s, func(v float64, labels ...string) { to <- prometheus.MustNewConstMetric(c.descs[i], t, v, labels...) })
	}
}
