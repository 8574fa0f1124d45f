package monitor

import (
	"bytes"
	"strconv"
	"strings"
)

// page is a page of metrics in Prometheus' text format, version 0.0.4. All values of a metric are written together.
type page struct{ bytes.Buffer }

// TextType is the format's content type.
const textType = "text/plain; version=0.0.4; charset=utf-8"

// begin writes a metric's help and type.
func (p *page) begin(m Metric) {
	p.WriteString("# HELP " + m.Name + " " + escape(m.Help, false) + "\n# TYPE " + m.Name + " " + string(m.Type) + "\n")
}

// value writes one value, with a value for each of the metric's labels.
func (p *page) value(m Metric, v float64, labels ...string) {
	p.WriteString(m.Name)
	for i, l := range m.Labels {
		p.WriteByte("{,"[min(i, 1)])
		p.WriteString(l + `="` + escape(labels[i], true) + `"`)
	}
	if len(m.Labels) > 0 {
		p.WriteByte('}')
	}
	p.WriteString(" " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func escape(s string, label bool) string {
	if label {
		return escapeLabel.Replace(s)
	}
	return escapeHelp.Replace(s)
}
