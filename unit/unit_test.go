package unit

import (
	"maps"
	"testing"
)

func TestUnitsAreReadAsSystemctlShowsThem(t *testing.T) {
	got := parse("LoadState=loaded\nAfter=a.service b.service\nUser=\n\nExecStart={ path=/usr/bin/x ; argv[]=x --a=b }\n")
	want := map[string]string{"LoadState": "loaded", "After": "a.service b.service", "User": "", "ExecStart": "{ path=/usr/bin/x ; argv[]=x --a=b }"}
	if !maps.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
