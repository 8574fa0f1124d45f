package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// keys lists the keys of a file by reflection: of lists and maps, those of one element.
func keys(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || name == "" || name == "-" {
			continue
		}
		of := f.Type
		switch {
		case of.Kind() == reflect.Map && of.Elem().Kind() == reflect.Struct:
			out = append(out, keys(of.Elem(), prefix+name+".NAME.")...)
		case of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct:
			out = append(out, keys(of.Elem(), prefix+name+".")...)
		case of.Kind() == reflect.Struct:
			out = append(out, keys(of, prefix+name+".")...)
		default:
			out = append(out, prefix+name)
		}
	}
	return out
}

// Whoever looks a key up finds it.
func TestEachKeyIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	all := append(keys(reflect.TypeFor[Node](), ""), keys(reflect.TypeFor[Witness](), "")...)
	if len(all) < 30 {
		t.Fatalf("only %v", all)
	}
	for _, key := range all {
		if !documented(string(text), key) {
			t.Errorf("docs/configuration.md has no `%s`", key)
		}
	}
}

// documented says whether the text has the key, in full or, as in the tables of its section, without what it is below.
func documented(text, key string) bool {
	for {
		if strings.Contains(text, "| `"+key+"`") || strings.Contains(text, ", `"+key+"`") {
			return true
		}
		_, below, more := strings.Cut(key, ".")
		if !more {
			return false
		}
		key = below
	}
}
