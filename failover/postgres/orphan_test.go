package postgres

import "os"

const orphanEnv = "KINESHIM_TEST_ORPHAN"

func runOrphanParent() { os.Exit(3) }
