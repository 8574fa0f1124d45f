package monitor

import (
	"fmt"
	"io"
	"strings"
)

// Type is Prometheus' type of a metric.
type Type string

// The types.
const (
	Gauge     Type = "gauge"
	Counter   Type = "counter"
	Histogram Type = "histogram"
)

// Metric is what is documented of one metric.
type Metric struct {
	// Name ends in the base unit, if it has one, and a counter's in _total.
	Name string
	Type Type
	// Help says what the value means, and when there is none.
	Help string
	// Labels are the names of its labels.
	Labels []string
	// Source says who has the metric when it is not everybody all the time; "": always there.
	Source string
}

// WriteTable writes the metrics as a table of Markdown.
func WriteTable(w io.Writer, metrics []Metric) {
	fmt.Fprintln(w, "| metric | type | labels | meaning |")
	fmt.Fprintln(w, "|---|---|---|---|")
	for _, m := range metrics {
		labels := ""
		if len(m.Labels) > 0 {
			labels = "`" + strings.Join(m.Labels, "`, `") + "`"
		}
		help := strings.ReplaceAll(m.Help, "|", `\|`)
		if m.Source != "" {
			help += ". *" + m.Source + "*"
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, labels, help)
	}
}
