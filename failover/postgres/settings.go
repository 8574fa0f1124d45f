package postgres

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// ForbiddenSettings are the PostgreSQL settings that users may not set, each with the reason.
var ForbiddenSettings = map[string]string{
	"synchronous_standby_names":           gates,
	"synchronous_commit":                  gates,
	"fsync":                               disk,
	"full_page_writes":                    disk,
	"data_sync_retry":                     disk,
	"zero_damaged_pages":                  disk,
	"ignore_checksum_failure":             disk,
	"ignore_invalid_pages":                disk,
	"ignore_system_indexes":               disk,
	"wal_level":                           repl,
	"wal_log_hints":                       repl,
	"hot_standby":                         repl,
	"hot_standby_feedback":                repl,
	"max_wal_senders":                     repl,
	"max_replication_slots":               repl,
	"max_slot_wal_keep_size":              "use postgres.slot_keep",
	"idle_replication_slot_timeout":       repl,
	"synchronized_standby_slots":          repl,
	"sync_replication_slots":              repl,
	"wal_sender_timeout":                  repl,
	"wal_receiver_timeout":                repl,
	"wal_receiver_status_interval":        repl,
	"wal_receiver_create_temp_slot":       repl,
	"wal_retrieve_retry_interval":         repl,
	"primary_conninfo":                    recovery,
	"primary_slot_name":                   recovery,
	"promote_trigger_file":                recovery,
	"trigger_file":                        recovery,
	"restore_command":                     recovery,
	"archive_cleanup_command":             recovery,
	"recovery_end_command":                recovery,
	"recovery_target":                     recovery,
	"recovery_target_action":              recovery,
	"recovery_target_inclusive":           recovery,
	"recovery_target_lsn":                 recovery,
	"recovery_target_name":                recovery,
	"recovery_target_time":                recovery,
	"recovery_target_timeline":            recovery,
	"recovery_target_xid":                 recovery,
	"recovery_min_apply_delay":            recovery,
	"max_standby_streaming_delay":         recovery,
	"max_standby_archive_delay":           recovery,
	"restart_after_crash":                 "kineshim's handling of a crash relies on it",
	"archive_mode":                        "a promoted standby would archive the same files as its predecessor",
	"update_process_title":                "kineshim shows recovery progress from it",
	"track_activities":                    "kineshim watches the walreceiver and the checkpointer through it",
	"superuser_reserved_connections":      "kineshim must always find a free connection",
	"authentication_timeout":              "kineshim must always find a free connection",
	"statement_timeout":                   timeouts,
	"lock_timeout":                        timeouts,
	"transaction_timeout":                 timeouts,
	"idle_session_timeout":                timeouts,
	"idle_in_transaction_session_timeout": timeouts,
	"client_connection_check_interval":    timeouts,
	"config_file":                         files,
	"hba_file":                            files,
	"ident_file":                          files,
	"data_directory":                      files,
	"external_pid_file":                   files,
	"include":                             files,
	"include_dir":                         files,
	"include_if_exists":                   files,
	"cluster_name":                        files,
	"listen_addresses":                    address,
	"port":                                address,
	"unix_socket_directories":             address,
	"unix_socket_permissions":             address,
	"unix_socket_group":                   address,
	"bonjour":                             address,
	"ssl":                                 certs,
	"ssl_ca_file":                         certs,
	"ssl_cert_file":                       certs,
	"ssl_key_file":                        certs,
	"ssl_crl_file":                        certs,
	"ssl_crl_dir":                         certs,
	"ssl_min_protocol_version":            certs,
	"ssl_max_protocol_version":            certs,
	"password_encryption":                 address,
	"db_user_namespace":                   address,
	"allow_system_table_mods":             "kineshim's roles and tables must stay what they are",
	"exit_on_error":                       "an error of one session would end it and look like a crash",
	"logging_collector":                   logs,
	"log_destination":                     logs,
}

// The reasons why settings are refused.
const (
	gates    = "acknowledged writes could be lost"
	disk     = "damage on the disk could go unnoticed or be made"
	repl     = "the standby could miss writes, or the disk fill up"
	recovery = "kineshim decides when and what a standby recovers"
	timeouts = "set it per session or role; globally it would end kineshim's own sessions"
	files    = "kineshim keeps its configuration in files of its own"
	certs    = "PostgreSQL is on no network: TLS ends at kineshim, which makes and renews the certificates itself"
	address  = "kineshim's own configuration says who can connect where"
	logs     = "kineshim writes PostgreSQL's log itself"
)

// settingName is what PostgreSQL accepts as a parameter's name, extensions' included.
var settingName = regexp.MustCompile(`^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$`)

func validateSettings(settings map[string]string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		why, forbidden := ForbiddenSettings[strings.ToLower(strings.TrimSpace(name))]
		switch {
		case forbidden:
			errs = append(errs, fmt.Errorf("postgres setting %s: not allowed: %s", name, why))
		case !settingName.MatchString(name):
			errs = append(errs, fmt.Errorf("postgres setting %q: not a parameter name in lower case", name))
		case strings.ContainsAny(settings[name], "\n\r\x00"):
			errs = append(errs, fmt.Errorf("postgres setting %s: the value has a line break", name))
		}
	}
	return errors.Join(errs...)
}
