import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { startEmbedded } from '../../src/postgres/embedded.ts'
import { migrate } from '../../src/postgres/migrate.ts'

/** The committed dump: what the migrations come to. */
export const SCHEMA_FILE = fileURLToPath(new URL('../../migrations/schema.sql', import.meta.url))

const HEADER = `-- What the migrations come to, read back from PostgreSQL's catalogs. Written by \`npm run schema:dump\`; to be read, not run.
`

/**
 * The schema `public` as text, in an order that depends on names alone: equal schemas, equal text, on PostgreSQL 15 to 18.
 * Whoever owns the database is called "owner", and what an owner may do anyway is left out. Rows are not dumped.
 * @throws if there is something that this dump would leave out
 */
export async function dumpSchema(sql: Sql): Promise<string> {
  await refuseUnknown(sql)
  const sections = [
    await dumpRoles(sql),
    await dumpEnums(sql),
    await dumpDomains(sql),
    ...(await dumpTables(sql)),
    await dumpViews(sql),
    await dumpFunctions(sql),
    await dumpGrants(sql),
  ]
  return [HEADER, ...sections].filter((section) => section !== '').join('\n')
}

/** A sequence, or a generated column, that is forgotten here would drift unseen. */
async function refuseUnknown(sql: Sql): Promise<void> {
  const unknown = await sql<{ name: string }[]>`
    SELECT relname AS name FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('r', 'i', 'v')
    UNION ALL
    SELECT typname FROM pg_type
    WHERE typnamespace = 'public'::regnamespace AND typtype NOT IN ('c', 'd', 'e') AND typcategory <> 'A'
    UNION ALL
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND (relrowsecurity OR relispartition)
    UNION ALL
    SELECT format('%I.%I', relname, attname) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND (attgenerated <> '' OR attidentity <> '')`
  if (unknown.length > 0) {
    throw new Error(
      `test/support/dump-schema.ts can't describe ${unknown.map(({ name }) => name).join(', ')}: teach it`,
    )
  }
}

/** The roles that something is granted to. */
async function dumpRoles(sql: Sql): Promise<string> {
  const rows = await sql<{ line: string }[]>`
    WITH granted AS (
      SELECT (aclexplode(relacl)).grantee FROM pg_class WHERE relnamespace = 'public'::regnamespace
    )
    SELECT format('CREATE ROLE %I %s%s%s;', rolname, CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
                  CASE WHEN rolsuper THEN ' SUPERUSER' END, CASE WHEN rolbypassrls THEN ' BYPASSRLS' END) AS line
    FROM pg_roles
    WHERE oid IN (SELECT grantee FROM granted) AND rolname <> current_user
    ORDER BY rolname COLLATE "C"`
  return lines(rows)
}

async function dumpEnums(sql: Sql): Promise<string> {
  const rows = await sql<{ line: string }[]>`
    SELECT format('CREATE TYPE %I AS ENUM (%s);', typname, string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder))
      AS line
    FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid
    WHERE typnamespace = 'public'::regnamespace
    GROUP BY typname ORDER BY typname COLLATE "C"`
  return lines(rows)
}

async function dumpDomains(sql: Sql): Promise<string> {
  const rows = await sql<{ line: string }[]>`
    SELECT concat_ws(' ', format('CREATE DOMAIN %I AS %s', typname, format_type(typbasetype, typtypmod)),
                     CASE WHEN typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || typdefault,
                     (SELECT string_agg(format('CONSTRAINT %I %s', conname, pg_get_constraintdef(c.oid)), ' '
                                        ORDER BY conname COLLATE "C")
                      FROM pg_constraint c WHERE contypid = t.oid AND contype <> 'n')) || ';' AS line
    FROM pg_type t WHERE typnamespace = 'public'::regnamespace AND typtype = 'd' ORDER BY typname COLLATE "C"`
  return lines(rows)
}

/** Each table with all that hangs on it. */
async function dumpTables(sql: Sql): Promise<string[]> {
  const tables = await sql<{ id: number; name: string; options: string | null }[]>`
    SELECT oid::int8::int AS id, relname AS name, array_to_string(reloptions, ', ') AS options
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    ORDER BY relname COLLATE "C"`
  return await Promise.all(
    tables.map(async ({ id, name, options }) => {
      const columns = await sql<{ line: string }[]>`
        SELECT concat_ws(' ', quote_ident(attname), format_type(atttypid, atttypmod),
                         CASE WHEN attnotnull THEN 'NOT NULL' END,
                         'DEFAULT ' || pg_get_expr(adbin, adrelid)) AS line
        FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
        WHERE attrelid = ${id} AND attnum > 0 AND NOT attisdropped ORDER BY attnum`
      // From 18 on, NOT NULL stands among the constraints as well (n); constraint triggers (t) are dumped as triggers.
      const constraints = await sql<{ line: string }[]>`
        SELECT format('CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)) AS line
        FROM pg_constraint WHERE conrelid = ${id} AND contype NOT IN ('n', 't') ORDER BY conname COLLATE "C"`
      const indexes = await sql<{ line: string }[]>`
        SELECT pg_get_indexdef(indexrelid) || ';' AS line
        FROM pg_index WHERE indrelid = ${id}
          AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u', 'x'))`
      const triggers = await sql<{ line: string }[]>`
        SELECT pg_get_triggerdef(oid) || CASE tgenabled WHEN 'O' THEN ';' ELSE '; -- not plainly enabled' END AS line
        FROM pg_trigger WHERE tgrelid = ${id} AND NOT tgisinternal ORDER BY tgname COLLATE "C"`
      const body = [...columns, ...constraints].map(({ line }) => `  ${line}`).join(',\n')
      const table = `CREATE TABLE ${name} (\n${body}\n)${options ? ` WITH (${options})` : ''};\n`
      return table + lines(sorted(indexes)) + lines(triggers)
    }),
  )
}

async function dumpViews(sql: Sql): Promise<string> {
  const rows = await sql<{ line: string }[]>`
    SELECT format(E'CREATE VIEW %I AS\n%s', relname, pg_get_viewdef(oid)) AS line
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'v' ORDER BY relname COLLATE "C"`
  return rows.map(({ line }) => `${line}\n`).join('\n')
}

async function dumpFunctions(sql: Sql): Promise<string> {
  const rows = await sql<{ line: string }[]>`
    SELECT rtrim(pg_get_functiondef(oid), E'\n') || ';' AS line
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    ORDER BY proname COLLATE "C", pg_get_function_identity_arguments(oid) COLLATE "C"`
  return rows.map(({ line }) => `${line}\n`).join('\n')
}

/** Who may do what, the owner left out. */
async function dumpGrants(sql: Sql): Promise<string> {
  const rows = await sql<{ line: string }[]>`
    WITH acls (object, owner, acl, suffix) AS (
      SELECT format('SCHEMA %I', nspname), nspowner, coalesce(nspacl, acldefault('n', nspowner)), ''
      FROM pg_namespace WHERE nspname = 'public'
      UNION ALL
      SELECT format('TABLE %I', relname), relowner, coalesce(relacl, acldefault('r', relowner)), ''
      FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
      UNION ALL
      SELECT format('TABLE %I', relname), relowner, attacl, format(' (%I)', attname)
      FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
      WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attacl IS NOT NULL
      UNION ALL
      SELECT format('FUNCTION %I', proname), proowner, coalesce(proacl, acldefault('f', proowner)), ''
      FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    ), grants AS (
      SELECT object, privilege_type || suffix || CASE WHEN is_grantable THEN ' (grantable)' ELSE '' END AS privilege,
             CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS grantee
      FROM acls, aclexplode(acl) WHERE grantee <> owner
    )
    SELECT format('GRANT %s ON %s TO %s;', string_agg(privilege, ', ' ORDER BY privilege COLLATE "C"), object, grantee) AS line
    FROM grants GROUP BY object, grantee
    UNION ALL
    SELECT format('GRANT %I TO owner;', rolname) FROM pg_auth_members m JOIN pg_roles r ON r.oid = roleid
    WHERE member = current_user::regrole AND rolname ~ '^zerosum_'`
  return lines(sorted(rows))
}

function sorted(rows: readonly { line: string }[]): { line: string }[] {
  return rows.toSorted((a, b) => (a.line < b.line ? -1 : 1))
}

function lines(rows: readonly { line: string }[]): string {
  return rows.map(({ line }) => `${line}\n`).join('')
}

/** `npm run schema:dump`: migrates an empty server and writes what it then has. */
async function writeDump(): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'zerosum-schema-'))
  try {
    const server = await startEmbedded(directory)
    try {
      const sql = connect(server.url('postgres'), { max: 1, role: null })
      await migrate(sql)
      await writeFile(SCHEMA_FILE, await dumpSchema(sql))
      await sql.end()
    } finally {
      await server.stop()
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

if (import.meta.main) {
  await writeDump()
  console.log(`wrote ${SCHEMA_FILE}`)
}
