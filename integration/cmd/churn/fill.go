package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// fillAtOnce bounds the rows of one statement, so that an interrupt is heard.
const fillAtOnce = 250_000

// fillSQL writes rows as kine would: the keys in turn, one row each, again and again. Row n (from 0) has the ID n + 2, since 1 is
// compact_rev_key's; $1 and $2 are the first n and the one after the last, $3 the number of keys.
const fillSQL = `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value)
SELECT id, '/registry/' || (ARRAY['pods', 'configmaps', 'secrets', 'endpointslices'])[1 + k % 4] || '/namespace-' || k % 97 || '/object-' || lpad(k::text, 8, '0'),
	CASE WHEN phase = 0 THEN 1 ELSE 0 END,
	CASE WHEN gone THEN 1 ELSE 0 END,
	CASE WHEN phase = 0 OR gone THEN 0 ELSE id - phase * $3::bigint END,
	CASE WHEN g = 0 THEN 0 ELSE id - $3::bigint END,
	0,
	CASE WHEN NOT gone THEN convert_to(repeat(md5(id::text), 9) || k, 'UTF8') END,
	CASE WHEN phase > 0 THEN convert_to(repeat(md5((id - $3::bigint)::text), 9) || k, 'UTF8') END
FROM (SELECT *, CASE WHEN mortal THEN g % 5 ELSE g END AS phase, mortal AND g % 5 = 4 AS gone
	FROM (SELECT n + 2 AS id, n % $3::bigint AS k, n / $3::bigint AS g, (n % $3::bigint) % 10 = 0 AS mortal
		FROM generate_series($1::bigint, $2::bigint - 1) AS n) a) b`

// mortalEvery is one of how many keys comes and goes in fillSQL. In the end it is gone or not, as the number of rows has it.
const mortalEvery = 10

func mortal(k int64) bool { return k%mortalEvery == 0 }

// nameOf is the key that fillSQL gives number k.
func nameOf(k int64) string {
	kinds := []string{"pods", "configmaps", "secrets", "endpointslices"}
	return fmt.Sprintf("/registry/%s/namespace-%d/object-%08d", kinds[k%4], k%97, k)
}

// fill makes kine's table and its rows. kine's indexes are left out: the engine drops them.
func fill(ctx context.Context, dsn string, o options) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `CREATE TABLE kine (id BIGSERIAL PRIMARY KEY, name text COLLATE "C", created INTEGER, deleted INTEGER,
		create_revision BIGINT, prev_revision BIGINT, lease INTEGER, value bytea, old_value bytea);
		INSERT INTO kine VALUES (1, 'compact_rev_key', 1, 0, 0, 0, 0, '', NULL)`); err != nil {
		return err
	}
	for first := int64(0); first < o.revisions; first += fillAtOnce {
		if _, err := conn.Exec(ctx, fillSQL, first, min(first+fillAtOnce, o.revisions), o.keys); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, "SELECT setval('kine_id_seq', (SELECT max(id) FROM kine))"); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "VACUUM (ANALYZE) kine")
	return err
}
