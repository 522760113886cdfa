<?php
// Sends a mail with WordPress, from the folder WP_CORE, with the folder WP_CONTENT_DIR
// for what is not its own. It has no database: all tables are empty.

foreach ( array( 'WP_CORE' => 'ABSPATH', 'WP_CONTENT' => 'WP_CONTENT_DIR' ) as $variable => $name ) {
	define( $name, getenv( $variable ) );
}
define( 'WP_HOME', 'http://localhost' ); // which makes no sender
define( 'WP_SITEURL', WP_HOME );
define( 'WP_INSTALLING', true );
define( 'WP_HTTP_BLOCK_EXTERNAL', true );
define( 'DISABLE_WP_CRON', true );
foreach ( array( 'DB_NAME', 'DB_USER', 'DB_PASSWORD', 'DB_HOST' ) as $name ) {
	define( $name, '' );
}
$table_prefix           = 'wp_';
$_SERVER['HTTP_HOST']   = 'localhost';
$_SERVER['REQUEST_URI'] = '/';

require ABSPATH . 'wp-includes/class-wpdb.php';
// phpcs:ignore
class Nothing extends wpdb {
	public function __construct() {
		$this->ready = true;
	}
	public function query( $query ) {
		$this->last_result = array();
		return 0;
	}
	public function _real_escape( $data ) {
		return addslashes( (string) $data );
	}
	public function get_col_charset( $table, $column ) {
		return false;
	}
	public function db_version() {
		return '8.0';
	}
	public function check_connection( $allow_bail = true ) {
		return true;
	}
	public function suppress_errors( $suppress = true ) {
		return true;
	}
}
$wpdb = new Nothing();

require ABSPATH . 'wp-settings.php';

add_filter(
	'pre_option_blog_charset',
	function () {
		return 'UTF-8';
	}
);
add_action(
	'wp_mail_failed',
	function ( $error ) {
		fwrite( STDERR, $error->get_error_message() . "\n" );
	}
);
exit( wp_mail( $argv[1], $argv[2], $argv[3] ) ? 0 : 1 );
