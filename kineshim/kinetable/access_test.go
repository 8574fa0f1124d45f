package kinetable

import "testing"

func TestAccessControlIsStoredAndFound(t *testing.T) {
	pg, database := testDatabase(t)
	stored := func(database string) string {
		t.Helper()
		b, err := StoredAccess(t.Context(), pg.DSN(database))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	equal(t, "without a table", stored(database), "")
	s := openStore(t, pg, database)
	_, meta := load(t, s)
	equal(t, "before", string(meta.Access), "")
	equal(t, "in a table of ours", stored(database), "")
	write(t, s, Batch{Access: []byte("one\x00")})
	write(t, s, Batch{Rows: []Row{{ID: 2, Revision: 2, Key: "a", Created: true, Version: 1}}, Access: []byte("two\x00")})
	write(t, s, Batch{Rows: []Row{{ID: 3, Revision: 3, Key: "b", Created: true, Version: 1}}})
	_, meta = load(t, s)
	equal(t, "loaded", string(meta.Access), "two\x00")
	equal(t, "found", stored(database), "two\x00")
	if _, err := StoredAccess(t.Context(), pg.DSN("nowhere")); err == nil {
		t.Error("no database: nothing is said")
	}
}
