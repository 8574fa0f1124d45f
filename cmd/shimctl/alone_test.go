package main

import (
	"testing"

	"kineshim/proto"
)

// lastOne answers as the node b that is left, with the preview, and then serves.
func lastOne(preview *proto.PreviewAloneResponse, asked *[]*proto.ServeAloneRequest) *control {
	st := paired()
	st.Node, st.Primary, st.Epoch = "b", "b", 5
	find(st, "b").State.GateOpen = true
	preview.Confirm = "token"
	preview.Others = []*proto.LostMember{{Name: "a", Role: "data", Address: "10.0.0.1:7001", ServerId: "a-1"}, {Name: "w", Role: "witness", Address: "10.0.0.3:7001", ServerId: "w-1"}}
	return &control{status: always(st), previewAlone: preview, serveAlone: func(q *proto.ServeAloneRequest) *proto.ServeAloneResponse {
		*asked = append(*asked, q)
		return &proto.ServeAloneResponse{Done: true, Epoch: 5}
	}}
}

func TestServeAloneShowsTheLossAndAsks(t *testing.T) {
	for name, tc := range map[string]struct {
		preview *proto.PreviewAloneResponse
		stdin   string
		args    []string
		code    int
		says    []string
		asked   bool
	}{
		"safe": {&proto.PreviewAloneResponse{Possible: true, Primary: "a", InSync: []string{"a", "b"}, Safe: true, OtherSilentMs: 61000, Epoch: 4}, "serve alone\n", nil, exitFine,
			[]string{"a was the primary, in epoch 4", "on a and b", "nothing that is known of", "1 min 1 s ago", "10.0.0.1:7001 (a-1)", "w          witness  10.0.0.3:7001", "b serves alone: epoch 5"}, true},
		"the solo primary itself": {&proto.PreviewAloneResponse{Possible: true, Primary: "b", InSync: []string{"b"}, Safe: true, OtherSilentMs: -1}, "serve alone\n", nil, exitFine,
			[]string{"Lost: nothing, unless a was promoted since by force"}, true},
		"loss known": {&proto.PreviewAloneResponse{Possible: true, Primary: "a", InSync: []string{"a"}, LossKnown: true, LossBytes: 4096, LossMs: 3000, OtherSilentMs: 5000}, "serve alone\n", []string{"--force"}, exitFine,
			[]string{"4.0 KiB of WAL (4096 bytes), the last 3.0 s of writes"}, true},
		"loss not known": {&proto.PreviewAloneResponse{Possible: true, Primary: "a", InSync: []string{"a"}, OtherSilentMs: -1}, "serve alone\n", []string{"--force"}, exitFine, []string{"NOT KNOWN"}, true},
		"no force":       {&proto.PreviewAloneResponse{Possible: true, Primary: "a", InSync: []string{"a"}}, "serve alone\n", nil, exitUnsafe, []string{"NOT KNOWN", "stderr: add --force"}, false},
		"nothing typed":  {&proto.PreviewAloneResponse{Possible: true, Primary: "b", InSync: []string{"b"}, Safe: true}, "", nil, exitFailed, []string{"stderr: nothing has changed"}, false},
		"something else": {&proto.PreviewAloneResponse{Possible: true, Primary: "b", InSync: []string{"b"}, Safe: true}, "yes\n", nil, exitFailed, []string{"stderr: nothing has changed"}, false},
		"only a look":    {&proto.PreviewAloneResponse{Possible: true, Primary: "b", InSync: []string{"b"}, Safe: true}, "serve alone\n", []string{"--dry-run"}, exitFine, []string{"Nothing has changed."}, false},
		"refused":        {&proto.PreviewAloneResponse{Reason: "there is a majority"}, "serve alone\n", nil, exitUnsafe, []string{"stderr: nothing has changed: there is a majority"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []*proto.ServeAloneRequest
			s := serve(t, lastOne(tc.preview, &asked))
			invoke(t, []string{s}, tc.stdin, append([]string{"serve", "--alone"}, tc.args...)...).expect(t, tc.code, tc.says...)
			if tc.asked != (len(asked) == 1) {
				t.Fatalf("asked for %v", asked)
			}
			if tc.asked && (asked[0].Confirm != "token" || asked[0].Operator == "" || asked[0].Force != !tc.preview.Safe) {
				t.Errorf("asked for %v", asked)
			}
		})
	}
	invoke(t, nil, "", "serve").expect(t, exitUsage, "stderr: needs --alone")
}
