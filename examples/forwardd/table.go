package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/table"
)

// checkTable checks the file of destination_table, which need not be there yet.
func checkTable(conf *config) error {
	if conf.DestinationTable == "" {
		return nil
	}
	if _, err := table.ReadFile(conf.DestinationTable); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return tableError(err)
	}
	return nil
}

// openTable opens the table of destinations, if there is to be one.
func (d *daemon) openTable() (err error) {
	if d.conf.DestinationTable == "" {
		return nil
	}
	if d.table, err = table.Open(d.conf.DestinationTable, table.Options{Logger: d.log}); err != nil {
		return tableError(err)
	}
	return nil
}

// tableError leaves out the path, which may come from a variable.
func tableError(err error) error {
	var fe *table.FileError
	if errors.As(err, &fe) {
		err = fe.Err
	}
	return fmt.Errorf("destination_table: %w", err)
}

// withTable lets streams also go to the destinations of the table.
func (d *daemon) withTable(cfg forward.Config) forward.Config {
	if d.table != nil {
		cfg.Hooks.OnSource = d.table.OnSource
	}
	return cfg
}
