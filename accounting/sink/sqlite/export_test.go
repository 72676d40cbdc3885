package sqlite

import "context"

// Exec runs a statement on the connection that writes.
func (s *Sink) Exec(ctx context.Context, query string) error {
	_, err := s.db.ExecContext(ctx, query)
	return err
}

// Path is the file.
func (s *Sink) Path(ctx context.Context) (path string, err error) {
	err = s.db.QueryRowContext(ctx, "SELECT file FROM pragma_database_list").Scan(&path)
	return path, err
}
