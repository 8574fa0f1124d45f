package main

import (
	"strings"
	"testing"
	"time"

	"kineshim/proto"
)

func TestSoloRecordWithSynchronousReplicationSaysSo(t *testing.T) {
	st := &proto.StatusResponse{Mode: modeSolo, Primary: "a", InSync: []string{"a"}, Nodes: []*proto.NodeStatus{{Name: "a", Role: "data"}, {Name: "b", Role: "data"}}}
	const says = "every commit waits for b too"
	if line := recordLine(st); strings.Contains(line, says) {
		t.Errorf("asynchronous: %s", line)
	}
	st.Synchronous = true
	if line := recordLine(st); !strings.Contains(line, says) {
		t.Errorf("synchronous: %s", line)
	}
	st.Mode = modePaired
	if line := recordLine(st); strings.Contains(line, says) {
		t.Errorf("paired: %s", line)
	}
}

func TestPreviewNamesTheNewestWrite(t *testing.T) {
	p := &proto.PreviewForceResponse{Possible: true, PrimarySilentMs: -1}
	if text := renderPreview(&proto.StatusResponse{Primary: "a"}, "b", p); strings.Contains(text, "newest write") {
		t.Errorf("not known, yet named:\n%s", text)
	}
	p.NewestUnixMilli = time.Now().Add(-90 * time.Second).UnixMilli()
	if text := renderPreview(&proto.StatusResponse{Primary: "a"}, "b", p); !strings.Contains(text, "newest write that b holds") || !strings.Contains(text, showMillis(90_000)) {
		t.Errorf("age of the newest write is missing:\n%s", text)
	}
}

func TestUnknownOutcomesAreShownWhereThereAreAny(t *testing.T) {
	const words = "outcome its clients were not told"
	if text := renderStatus(paired()); strings.Contains(text, words) {
		t.Errorf("without any:\n%s", text)
	}
	text := renderStatus(variant(paired, func(st *proto.StatusResponse) { st.Nodes[1].State.UnknownOutcomes = 3 }))
	if !strings.Contains(text, "b: writes whose "+words+", since its start: 3") {
		t.Errorf("with 3:\n%s", text)
	}
}
