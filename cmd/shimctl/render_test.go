package main

import (
	"strings"
	"testing"

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
